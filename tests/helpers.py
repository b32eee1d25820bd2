"""Small models of the real architectures, written as model folders."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.export.families.stable_diffusion import checkpoints
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.part import Part, Tensors
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.fold import fold
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from passionsr_trt.export.quantize.values import PartQuant
from torch import Tensor, nn

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": [2, 4],
    "norm_num_groups": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "use_linear_projection": True,
}
KL = {
    "block_out_channels": [16, 16, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
}
TINY = {
    "latent_channels": 4,
    "encoder_block_out_channels": [16, 16, 16, 16],
    "decoder_block_out_channels": [16, 16, 16, 16],
    "num_encoder_blocks": [1, 1, 1, 1],
    "num_decoder_blocks": [1, 1, 1, 1],
}


def write_model(
    folder: Path,
    vae: str = "AutoencoderKL",
    one_step: dict[str, Any] | None = None,
    unet: dict[str, Any] | None = None,
) -> Path:
    """A model folder with seeded random weights; `one_step` and `unet` override single keys."""
    import diffusers

    torch.manual_seed(0)
    kind, config = getattr(diffusers, vae), KL if vae == "AutoencoderKL" else TINY
    modules = diffusers.UNet2DConditionModel(**{**UNET, **(unet or {})}), kind(**config)
    steps = {"timestep": 999, "prediction": "epsilon", "scaling_factor": 0.18215, "upscale": 2}
    checkpoints.write_model(
        folder, *modules, checkpoints.SD21 / "scheduler", torch.randn(1, 7, 24), {**steps, **(one_step or {})}
    )
    return folder


def applied(calibration: Calibration, part: Part, probe: Tensors | None = None) -> PartQuant:
    """LET folded into a part: what is left to be attached to it."""
    return fold(part, calibration.of_part(part), probe)


def faked(part: Part, quant: PartQuant) -> AbstractContextManager[None]:
    """A folded part computes with fake quantization while the context lasts."""
    return attached(fake_quantizers(part, quant))


def quantized_chain(parts: Iterable[Part], calibration: Calibration, sources: Tensors) -> dict[str, Tensor]:
    """Every tensor of a chain whose parts are folded and run with fake quantization."""
    tensors = dict(sources)
    with torch.no_grad():
        for part in parts:
            with faked(part, applied(calibration, part)):
                tensors[part.output.name] = part.run(tensors)
    return tensors


def lone_part(name: str, module: nn.Module, channels: int) -> Part:
    """A part of a module that takes and gives a picture-sized tensor."""
    return Part(name, module, (TensorInfo("image", channels, 1),), TensorInfo("out", channels, 1), 1)
