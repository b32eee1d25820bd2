"""The parts of a ResShift model in one step: wired, and every fold proved.

    lr → vq_encoder → z_y;  z_y, noise, lr → unet → x0;  x0 → vq_decoder → picture

Proof: ‖a − b‖₂ / ‖a‖₂ ≤ 1e-4 in float32 against the model as its authors wrote it, or FoldError: of every block of
the UNet alone, and of every part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families import blocks
from passionsr_trt.export.families.autoencoder import AUTOENCODER_ABSORB
from passionsr_trt.export.families.resshift import reference
from passionsr_trt.export.families.resshift.autoencoder import POSITIONS, VQDecoder, VQEncoder
from passionsr_trt.export.families.resshift.unet import UNET_ABSORB, OneStepUNet, Resample, ResBlock, SwinLayer
from passionsr_trt.export.model.part import Model, Part, Tensors, smooth_sources
from passionsr_trt.export.model.proof import prove
from torch import Tensor, nn

NAME = "resshift"
BLOCKS = (ResBlock, SwinLayer, Resample)
VAE_BLOCKS = (blocks.ResBlock, blocks.SpatialSelfAttention, blocks.Downsample, blocks.Upsample)


@dataclass(frozen=True)
class OneStep:
    """The one step: x_T = z_y + kappa·root_eta·noise at the last of `steps` timesteps.

    root_eta: √η of that step. Released schedules, whatever their power, end with 0.99.
    """

    kappa: float
    root_eta: float
    steps: int

    def __post_init__(self) -> None:
        checks = (
            ("kappa", 0 < self.kappa < 1e3, "a number > 0"),
            ("root_eta", 0 < self.root_eta <= 1, "a number above 0, at most 1"),
            ("steps", 1 <= self.steps <= 1000, "a whole number from 1 to 1000"),
        )
        for name, good, expected in checks:
            if not good:
                raise UserError(f"resshift: {name} is {getattr(self, name)!r}", f"expected {expected}")

    @property
    def timestep(self) -> int:
        return self.steps - 1

    @property
    def noise_gain(self) -> float:
        """κ√η."""
        return self.kappa * self.root_eta


@dataclass(frozen=True)
class ResShiftModel:
    """The float model as its authors define it; vae: diffusers' VQModel."""

    digest: str
    step: OneStep
    unet: reference.UNetModelSwin
    vae: Any

    @property
    def upscale(self) -> int:
        """The autoencoder's stride: its latent has the LR picture's size."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def encode(self, lr: Tensor) -> Tensor:
        """The latent of the picture's bicubic enlargement."""
        image = F.interpolate(lr, scale_factor=float(self.upscale), mode="bicubic")
        z_y: Tensor = self.vae.quant_conv(self.vae.encoder(image))
        return z_y

    def denoise(self, z_y: Tensor, noise: Tensor, lr: Tensor) -> Tensor:
        gain = self.step.noise_gain
        x_t = z_y + gain * noise
        return self.unet(torch.cat([x_t / (gain**2 + 1) ** 0.5, lr], dim=1), self.step.timestep)

    def quantize(self, x0: Tensor) -> Tensor:
        """The nearest codes [B, C, h, w]."""
        codes: Tensor = self.vae.quantize(x0)[0]
        return codes

    def decode(self, x0: Tensor) -> Tensor:
        picture: Tensor = self.vae.decoder(self.vae.post_quant_conv(self.quantize(x0)))
        return picture

    @torch.no_grad()
    def reference(self, sources: Tensors) -> dict[str, Tensor]:
        """Every part's output as the model's authors compute it."""
        z_y = self.encode(sources["lr"])
        x0 = self.denoise(z_y, sources["noise"], sources["lr"])
        return {"z_y": z_y, "x0": x0, "picture": self.decode(x0)}


@torch.no_grad()
def build_model(model: ResShiftModel) -> Model:
    """Fold, wire and prove. The parts share the model's weight tensors wherever a fold left them alone."""
    upscale, channels = model.upscale, model.unet.outputs
    widths = (model.vae.config.latent_channels, model.vae.config.vq_embed_dim)
    if widths != (channels, channels):
        raise UserError(
            f"the autoencoder has {widths[0]} latent channels in codes of {widths[1]}, the UNet gives {channels}",
            "expected the same number",
        )
    unet = OneStepUNet(model.unet, model.step.timestep, model.step.noise_gain).eval()
    prove_blocks(model, unet)
    lr, picture = TensorInfo("lr", 3, upscale), TensorInfo("picture", 3, 1)
    z_y, noise, x0 = (TensorInfo(name, channels, upscale) for name in ("z_y", "noise", "x0"))
    multiple = upscale * POSITIONS
    encoder, decoder = VQEncoder(model.vae, upscale).eval(), VQDecoder(model.vae).eval()
    parts = (
        Part("vq_encoder", encoder, (lr,), z_y, multiple, absorb=AUTOENCODER_ABSORB, blocks=VAE_BLOCKS),
        Part("unet", unet, (z_y, noise, lr), x0, unet_multiple(model), absorb=UNET_ABSORB, blocks=BLOCKS),
        Part(
            "vq_decoder", decoder, (x0,), picture, multiple, absorb=AUTOENCODER_ABSORB, blocks=VAE_BLOCKS,
            float_inputs=True,
        ),
    )  # fmt: skip
    built = Model(NAME, model.digest, upscale, "none", parts, model.reference, draws_noise=True)
    side = parts[1].multiple
    sources = smooth_sources(parts, (side, side))
    tensors = {**sources, **model.reference(sources)}
    built.errors |= {
        part.name: prove(part.name, tensors[part.output.name], part.run(tensors)) for part in parts[:2]
    }
    # from codes themselves: where two are equally near, the last bit of a distance chooses
    codes = {"x0": model.quantize(tensors["x0"])}
    built.errors["vq_decoder"] = prove("vq_decoder", model.decode(codes["x0"]), parts[2].run(codes))
    return built


def unet_multiple(model: ResShiftModel) -> int:
    """Output pixels: the deepest level has whole windows."""
    modules = list(model.unet.modules())
    halvings = sum(isinstance(module, reference.Down) for module in modules)
    window = max((module.window for module in modules if isinstance(module, reference.SwinBlock)), default=1)
    return int(model.upscale * window * 2**halvings)


def prove_blocks(model: ResShiftModel, unet: OneStepUNet) -> None:
    """Every ResBlock and Swin layer alone, on seeded noise of two windows by three."""
    generator = torch.Generator().manual_seed(0)
    embedding = model.unet.embedding(model.step.timestep)
    twins = dict(unet.named_modules())
    for path, block in model.unet.named_modules():
        if isinstance(block, reference.ScaledResBlock):
            x = torch.randn(1, _inputs(block.in_layers[2]), 8, 8, generator=generator)
            prove(f"unet.{path}", block(x, embedding), twins[path](x))
        elif isinstance(block, reference.SwinLayer):
            size = (1, _inputs(block.patch_embed["proj"]), 2 * block.window, 3 * block.window)
            x = torch.randn(size, generator=generator)
            prove(f"unet.{path}", block(x), twins[path](x))


def _inputs(conv: nn.Module) -> int:
    assert isinstance(conv, nn.Conv2d)
    return conv.in_channels
