"""Small models of the real architectures, written as model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.export.families.stable_diffusion import checkpoints
from passionsr_trt.export.quantize.modes import Mode, Moded
from passionsr_trt.export.quantize.part import Part
from torch import nn

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


def switch(module: nn.Module, mode: Mode) -> None:
    """Every site, port and attention of a module in one mode, for good."""
    for found in module.modules():
        if isinstance(found, Moded):
            found.mode = mode


def lone_part(name: str, module: nn.Module, channels: int) -> Part:
    """A part of a module that takes and gives a picture-sized tensor."""
    return Part(name, module, (TensorInfo("image", channels, 1),), TensorInfo("out", channels, 1), 1)
