"""A model folder of Stable Diffusion 2.1's shapes with random weights: what full-size figures are measured on.

    python benchmarks/sd21_model.py -o out/sd21

866 M (UNet) and 84 M (VAE) parameters, stored as float16 (1.9 GB). Weights have diffusers' initial statistics,
seeded, so activations stay finite; the pictures mean nothing, the arithmetic is the real model's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
ONE_STEP = {"timestep": 999, "prediction": "epsilon", "scaling_factor": 0.18215, "upscale": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0, help="channels times this; below 1 a smaller model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    kinds: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("unet", diffusers.UNet2DConditionModel, UNET),
        ("vae", diffusers.AutoencoderKL, VAE),
    )
    for name, kind, config in kinds:
        folder = arguments.output / name
        folder.mkdir(parents=True, exist_ok=True)
        channels = [max(32, int(width * arguments.width) // 32 * 32) for width in config["block_out_channels"]]
        heads = {"attention_head_dim": [max(1, width // 64) for width in channels]} if name == "unet" else {}
        module = kind(**{**config, **heads, "block_out_channels": channels}).half()
        save_file(module.state_dict(), folder / "diffusion_pytorch_model.safetensors")
        module.save_config(folder)
        print(f"{name}: {sum(parameter.numel() for parameter in module.parameters()) / 1e6:.0f} M parameters")
    (arguments.output / "scheduler").mkdir(exist_ok=True)
    (arguments.output / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (arguments.output / "one_step.json").write_text(json.dumps(ONE_STEP))
    save_file({"text_embedding": torch.randn(1, 77, 1024)}, arguments.output / "text_embedding.safetensors")


if __name__ == "__main__":
    main()
