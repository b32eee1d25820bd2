"""The parts of a ResShift model: wired, and every fold proved.

    one step:  lr → vq_encoder → z_y;  z_y, noise, lr → unet → x0;  x0 → vq_decoder → picture
    faces:     lr → lr_branch → features, which the steps read in place of lr
    15 steps:  z_y, noise, noise_15, lr → unet_15 → x14;  x14, noise_14, lr → unet_14 → x13;  …
               x1, lr → unet_1 → x0

Proof: ‖a − b‖₂ / ‖a‖₂ ≤ 1e-4 in float32 against the model as its authors wrote it, or FoldError: of every block of
the UNet alone, and of every part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families import blocks
from passionsr_trt.export.families.autoencoder import AUTOENCODER_ABSORB
from passionsr_trt.export.families.resshift import reference
from passionsr_trt.export.families.resshift.autoencoder import POSITIONS, VQDecoder, VQEncoder
from passionsr_trt.export.families.resshift.sampler import Sampler, Step
from passionsr_trt.export.families.resshift.unet import (
    AdaFM,
    FirstUNet,
    LastUNet,
    LrBranch,
    NextUNet,
    OnlyUNet,
    Resample,
    ResBlock,
    SwinLayer,
    UNet,
    layers_of,
    unet_absorb,
)
from passionsr_trt.export.model.part import Model, Part, Tensors, smooth_sources
from passionsr_trt.export.model.proof import prove
from torch import Tensor, nn

NAME = "resshift"
BLOCKS = (ResBlock, SwinLayer, Resample)
VAE_BLOCKS = (blocks.ResBlock, blocks.SpatialSelfAttention, blocks.Downsample, blocks.Upsample)


@dataclass(frozen=True)
class ResShiftModel:
    """The float model as its authors define it; vae: diffusers' VQModel."""

    digest: str
    sampler: Sampler
    unet: reference.UNetModelSwin
    vae: Any

    @property
    def stride(self) -> int:
        """The autoencoder's: output pixels that a position of its latent stands for."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def upscale(self) -> int:
        """The latent has the LR picture's size, or that of its features."""
        return self.stride // self.unet.reduction

    def encode(self, lr: Tensor) -> Tensor:
        """The latent of the picture's bicubic enlargement."""
        image = F.interpolate(lr, scale_factor=float(self.upscale), mode="bicubic") if self.upscale > 1 else lr
        z_y: Tensor = self.vae.quant_conv(self.vae.encoder(image))
        return z_y

    def start(self, z_y: Tensor, noise: Tensor) -> Tensor:
        """x_T."""
        return z_y + self.sampler.run()[0].noise_gain * noise

    def denoise(self, step: Step, x: Tensor, lr: Tensor) -> Tensor:
        """The network's x0 of x_t."""
        gain = step.noise_gain
        return self.unet(torch.cat([x / (gain**2 + 1) ** 0.5, self.unet.features_of(lr)], dim=1), step.timestep)

    def next(self, step: Step, x: Tensor, tensors: Tensors) -> Tensor:
        """x_t → x_{t−1}, by what is drawn for the step and the LR picture."""
        x0 = self.denoise(step, x, tensors["lr"])
        return step.kept * x + step.taken * x0 + step.drawn * tensors[step.noise] if step.drawn else x0

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
        given = {"z_y": self.encode(sources["lr"])}
        if self.unet.feature_extractor is not None:
            given["features"] = self.unet.features_of(sources["lr"])
        x = self.start(given["z_y"], sources["noise"])
        for step in self.sampler.run():
            x = given[step.result] = self.next(step, x, sources)
        return {**given, "picture": self.decode(x)}


@torch.no_grad()
def build_model(model: ResShiftModel) -> Model:
    """Fold, wire and prove. The parts share the model's weight tensors wherever a fold left them alone."""
    stride, upscale, channels = model.stride, model.upscale, model.unet.outputs
    if upscale < 1:
        reduction = model.unet.reduction
        raise UserError(
            f"the autoencoder makes its picture {stride} times smaller, the UNet its own {reduction} times",
            "expected the UNet's not to be more",
        )
    widths = (model.vae.config.latent_channels, model.vae.config.vq_embed_dim)
    if widths != (channels, channels):
        raise UserError(
            f"the autoencoder has {widths[0]} latent channels in codes of {widths[1]}, the UNet gives {channels}",
            "expected the same number",
        )
    lr, picture = TensorInfo("lr", 3, upscale), TensorInfo("picture", 3, 1)
    z_y, x0 = (TensorInfo(name, channels, stride) for name in ("z_y", "x0"))
    multiple = stride * POSITIONS
    encoder, decoder = VQEncoder(model.vae, upscale).eval(), VQDecoder(model.vae).eval()
    parts = (
        Part("vq_encoder", encoder, (lr,), z_y, multiple, absorb=AUTOENCODER_ABSORB, blocks=VAE_BLOCKS),
        *(steps := step_parts(model, lr, z_y)),
        Part(
            "vq_decoder", decoder, (x0,), picture, multiple, absorb=AUTOENCODER_ABSORB, blocks=VAE_BLOCKS,
            float_inputs=True,
        ),
    )  # fmt: skip
    built = Model(NAME, model.digest, upscale, "none", parts, model.reference, draws_noise=True)
    side = steps[-1].multiple
    sources = smooth_sources(parts, (side, side))
    tensors = {**sources, **model.reference(sources)}
    built.errors |= {
        part.name: prove(part.name, tensors[part.output.name], part.run(tensors)) for part in parts[:-1]
    }
    # from codes themselves: where two are equally near, the last bit of a distance chooses
    codes = {"x0": model.quantize(tensors["x0"])}
    built.errors["vq_decoder"] = prove("vq_decoder", model.decode(codes["x0"]), parts[-1].run(codes))
    return built


def step_parts(model: ResShiftModel, lr: TensorInfo, z_y: TensorInfo) -> list[Part]:
    """The sampler's steps, a part each, with every block proved; before them the LR picture's branch, if any."""
    steps, layers, multiple = model.sampler.run(), layers_of(model.unet), unet_multiple(model)
    adaptive = any(isinstance(module, AdaFM) for module in layers.modules())
    parts: list[Part] = []
    given, branch = z_y, model.unet.feature_extractor
    if branch is not None:
        features = TensorInfo("features", model.unet.features, model.stride)
        parts.append(Part("lr_branch", LrBranch(branch).eval(), (lr,), features, model.stride))
        lr = features
    for step in steps:
        noise, own, result = (replace(z_y, name=name) for name in ("noise", step.noise, step.result))
        kind, inputs = wiring_of(step, steps, given, noise, own, lr)
        unet = kind(model.unet, layers, step).eval()
        prove_blocks(model, step, unet, swin=adaptive or step is steps[0])
        parts.append(Part(step.name, unet, inputs, result, multiple, absorb=unet_absorb(adaptive), blocks=BLOCKS))
        given = result
    return parts


def wiring_of(
    step: Step, steps: Sequence[Step], given: TensorInfo, noise: TensorInfo, own: TensorInfo, lr: TensorInfo
) -> tuple[type[UNet], tuple[TensorInfo, ...]]:
    """What a step is and reads, by its place among `steps`. given: what the part before it gives."""
    if len(steps) == 1:
        return OnlyUNet, (given, noise, lr)
    if step is steps[0]:
        return FirstUNet, (given, noise, own, lr)
    return (NextUNet, (given, own, lr)) if step.drawn else (LastUNet, (given, lr))


def unet_multiple(model: ResShiftModel) -> int:
    """Output pixels: the deepest level has whole windows."""
    modules = list(model.unet.input_blocks.modules())
    halvings = sum(isinstance(module, reference.Down) for module in modules)
    window = max((module.window for module in modules if isinstance(module, reference.SwinBlock)), default=1)
    return int(model.stride * window * 2**halvings)


def prove_blocks(model: ResShiftModel, step: Step, unet: UNet, swin: bool) -> None:
    """Every ResBlock alone, and every Swin layer where `swin`, on seeded noise of two windows by three.

    Without AdaFM no step changes a Swin layer.
    """
    generator = torch.Generator().manual_seed(0)
    embedding = model.unet.embedding(step.timestep)
    twins = dict(unet.named_modules())
    for path, block in model.unet.named_modules():
        if isinstance(block, reference.ScaledResBlock):
            x = torch.randn(1, _inputs(block.in_layers[2]), 8, 8, generator=generator)
            prove(f"{step.name}.{path}", block(x, embedding), twins[path](x))
        elif isinstance(block, reference.SwinLayer) and swin:
            size = (1, _inputs(block.patch_embed["proj"]), 2 * block.window, 3 * block.window)
            x = torch.randn(size, generator=generator)
            prove(f"{step.name}.{path}", block(x, embedding), twins[path](x))


def _inputs(conv: nn.Module) -> int:
    assert isinstance(conv, nn.Conv2d)
    return conv.in_channels
