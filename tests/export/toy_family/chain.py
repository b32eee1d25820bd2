"""The toy model as two parts: sites in place of layers, constants folded, every part proved.

1. timestep → the bias of the ResBlock's first convolution
2. −σ → the last convolution of the UNet
3. nearest ×2 and the convolution behind it → one site in sub-pixel form
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.export.families.blocks import ResBlock, SpatialSelfAttention
from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.part import Model, Part, Tensors, smooth_sources
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.model.sub_pixel import SubPixelConv
from torch import Tensor, nn

from tests.export.toy_family import reference

UPSCALE = 2
UNET_ABSORB = (
    Absorb("attention.to_q", "group_norm"),
    Absorb("attention.to_out.0", "attention.to_v", Into.ROWS),
)
DECODER_ABSORB = (
    Absorb("up", "conv_in", Into.ROWS, takes_shift=False),  # a ReLU lies between
    Absorb("conv_out", "up", Into.ROWS, takes_shift=False),
)


class UNet(nn.Module):
    """lr, noise [B, 3, h, w] → x0 [B, 3, h, w], at one timestep."""

    def __init__(self, unet: reference.UNet, timestep: int, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.conv_in, self.down = SiteConv.from_conv(unet.conv_in), SiteConv.from_conv(unet.down)
        self.block = ResBlock(unet.block, unet.time_embedding(torch.tensor([[timestep / 1000]])))
        self.attention = SpatialSelfAttention(unet.attention)
        self.up = sub_pixel(unet.up)
        self.conv_out = SiteConv.from_conv(unet.conv_out)
        self.conv_out.scale_output(-sigma)

    def forward(self, lr: Tensor, noise: Tensor) -> Tensor:
        z = lr + self.sigma * noise
        skip = self.conv_in(z)
        x = self.up(self.attention(self.block(self.down(skip))))
        return z + self.conv_out(F.silu(x + skip))


class Decoder(nn.Module):
    """x0 [B, 3, h, w] → picture [B, 3, 2h, 2w]."""

    def __init__(self, decoder: reference.Decoder) -> None:
        super().__init__()
        self.conv_in, self.up = SiteConv.from_conv(decoder.conv_in), sub_pixel(decoder.up)
        self.conv_out = SiteConv.from_conv(decoder.conv_out)

    def forward(self, clean: Tensor) -> Tensor:
        detail = self.conv_out(F.relu(self.up(F.relu(self.conv_in(clean)))))
        return F.interpolate(clean, scale_factor=2.0, mode="nearest") + detail


def sub_pixel(conv: nn.Conv2d) -> SubPixelConv:
    """Of a 3×3 convolution with a nearest ×2 in front."""
    return SubPixelConv.of(conv.weight.data, None if conv.bias is None else conv.bias.data)


@torch.no_grad()
def build(original: reference.ToyModel, timestep: int, sigma: float, digest: str) -> Model:
    lr, noise = TensorInfo("lr", 3, UPSCALE), TensorInfo("noise", 3, UPSCALE)
    clean, picture = TensorInfo("clean", 3, UPSCALE), TensorInfo("picture", 3, 1)
    unet, decoder = UNet(original.unet, timestep, sigma).eval(), Decoder(original.decoder).eval()
    parts = (
        Part("unet", unet, (lr, noise), clean, multiple=2 * UPSCALE, absorb=UNET_ABSORB),
        Part("decoder", decoder, (clean,), picture, multiple=UPSCALE, absorb=DECODER_ABSORB),
    )

    def as_authors(sources: Tensors) -> dict[str, Tensor]:
        x0 = original.denoise(sources["lr"], sources["noise"], timestep, sigma)
        return {"clean": x0, "picture": original.decoder(x0)}

    model = Model("toy-diffusion", digest, UPSCALE, "none", parts, as_authors, draws_noise=True)
    model.prove(smooth_sources(parts, (64, 64)))
    return model
