"""The deployable VAE halves: image → scaled latent z, and clean latent x0 → image.

Both take and give images in [-1, 1] and latents already multiplied by the scaling factor, so the
chain needs no arithmetic between its parts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.stable_diffusion.blocks import (
    Downsample,
    ResBlock,
    SpatialSelfAttention,
    Upsample,
)
from passionsr_trt.export.quantize.sites import SiteConv
from torch import Tensor, nn


class KLMid(nn.Module):
    """ResBlock, attention over pixels, ResBlock."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(resnet, None) for resnet in block.resnets)
        self.attentions = nn.ModuleList(SpatialSelfAttention(attention) for attention in block.attentions)

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention, resnet in zip(self.attentions, self.resnets[1:], strict=True):
            x = resnet(attention(x))
        return x


class KLStage(nn.Module):
    """ResBlocks and the level's resampler."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(resnet, None) for resnet in block.resnets)
        down, up = getattr(block, "downsamplers", None), getattr(block, "upsamplers", None)
        self.downsamplers = nn.ModuleList([Downsample(down[0])] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(up[0])] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class KLEncoder(nn.Module):
    """AutoencoderKL's encoder. image [B,3,H,W] in [-1,1] → z [B,C,H/8,W/8], scaled; for posterior `sample` with
    noise [B,C,H/8,W/8].

    conv_out' = scaling_factor · quant_conv ∘ conv_out (1×1 after 3×3, exact). Posterior `mode` keeps the
    mean rows only. Posterior `sample` gives scaled mean + scaled standard deviation · noise.
    """

    def __init__(self, vae: Any, scaling_factor: float, posterior: str) -> None:
        super().__init__()
        encoder = vae.encoder
        self.conv_in = SiteConv.from_conv(encoder.conv_in)
        self.down_blocks = nn.ModuleList(KLStage(block) for block in encoder.down_blocks)
        self.mid_block = KLMid(encoder.mid_block)
        self.conv_norm_out = encoder.conv_norm_out
        self.conv_out = SiteConv.from_conv(encoder.conv_out)
        self.scaling_factor = scaling_factor
        weight, bias = encoder.conv_out.weight.data.double(), encoder.conv_out.bias.data.double()
        if vae.quant_conv is not None:
            mix = vae.quant_conv.weight.data.double().flatten(1)
            weight = torch.einsum("om,mikl->oikl", mix, weight)
            bias = mix @ bias + vae.quant_conv.bias.data.double()
        rows = weight.shape[0] // 2
        weight[:rows] *= scaling_factor
        bias[:rows] *= scaling_factor
        if posterior == "mode":
            weight, bias = weight[:rows], bias[:rows]
        self.conv_out.assign(weight.float(), bias.float())

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        x = self.conv_in(image)
        for stage in self.down_blocks:
            x = stage(x)
        x = F.silu(self.conv_norm_out(self.mid_block(x)))
        moments = self.conv_out(x)
        if noise is None:
            return moments
        mean, log_variance = moments.chunk(2, dim=1)
        deviation = torch.exp(0.5 * torch.clamp(log_variance, -30.0, 20.0))
        return mean + deviation * self.scaling_factor * noise


class KLDecoder(nn.Module):
    """AutoencoderKL's decoder. x0 [B,C,h,w], scaled → image [B,3,8h,8w] in about [-1,1].

    post_quant_conv' = post_quant_conv / scaling_factor; it cannot merge into conv_in, whose zero padding
    would then stand for a different value.
    """

    def __init__(self, vae: Any, scaling_factor: float) -> None:
        super().__init__()
        decoder = vae.decoder
        channels = decoder.conv_in.in_channels
        if vae.post_quant_conv is not None:
            self.post_quant_conv = SiteConv.from_conv(vae.post_quant_conv)
            self.post_quant_conv.assign(
                vae.post_quant_conv.weight.data / scaling_factor, vae.post_quant_conv.bias.data
            )
        else:
            self.post_quant_conv = SiteConv(
                torch.eye(channels).reshape(channels, channels, 1, 1) / scaling_factor, None
            )
        self.conv_in = SiteConv.from_conv(decoder.conv_in)
        self.mid_block = KLMid(decoder.mid_block)
        self.up_blocks = nn.ModuleList(KLStage(block) for block in decoder.up_blocks)
        self.conv_norm_out = decoder.conv_norm_out
        self.conv_out = SiteConv.from_conv(decoder.conv_out)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.post_quant_conv(latent)
        x = self.mid_block(self.conv_in(x))
        for stage in self.up_blocks:
            x = stage(x)
        x = F.silu(self.conv_norm_out(x))
        return self.conv_out(x)
