"""A model folder of Stable Diffusion 2.1's shapes with random weights: what full-size figures are measured on.

    python benchmarks/sd21_model.py -o out/sd21

866 M (UNet) and 84 M (VAE) parameters, stored as float16 (1.9 GB). Weights have diffusers' initial statistics,
seeded, so activations stay finite; the pictures mean nothing, the arithmetic is the real model's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import diffusers
import torch
from passionsr_trt.export.families.stable_diffusion.checkpoints import SD21, write_model
from passionsr_trt.export.families.weights import read_json

ONE_STEP = {"timestep": 999, "prediction": "epsilon", "scaling_factor": 0.18215, "upscale": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0, help="channels times this; below 1 a smaller model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} is there already")
    torch.manual_seed(0)
    parts = {}
    for name, kind in (("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)):
        config = read_json(SD21 / name / "config.json")
        channels = [max(32, int(width * arguments.width) // 32 * 32) for width in config["block_out_channels"]]
        heads = {"attention_head_dim": [max(1, width // 64) for width in channels]} if name == "unet" else {}
        parts[name] = kind.from_config({**config, **heads, "block_out_channels": channels}).half()
        print(f"{name}: {sum(weight.numel() for weight in parts[name].parameters()) / 1e6:.0f} M parameters")
    text = torch.randn(1, 77, 1024)
    write_model(arguments.output, parts["unet"], parts["vae"], SD21 / "scheduler", text, ONE_STEP)


if __name__ == "__main__":
    main()
