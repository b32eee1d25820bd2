"""The float model in PyTorch eager mode, one run per line on standard input.

    python benchmarks/torch_worker.py MODEL HEIGHT WIDTH THREADS

Prints `ready`, then for every line it reads one JSON object {part: seconds}. The parts are the model's own
(diffusers modules; for the TAESD layout ours), without folded constants: what a user runs today.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from passionsr_trt.export.constants import build_parts
from passionsr_trt.export.model import OneStepModel


def main() -> None:
    folder, height, width, threads = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    torch.set_num_threads(threads)
    model = OneStepModel.load(folder)
    parts = build_parts(model)
    image = torch.rand(1, 3, height, width) * 2 - 1
    step = model.one_step
    root, sigma = model.alpha_bar**0.5, (1 - model.alpha_bar) ** 0.5

    def encode(x: torch.Tensor) -> torch.Tensor:
        if model.vae_kind == "AutoencoderKL":
            return model.vae.encode(x).latent_dist.mode() * step.scaling_factor
        return parts.vae_encoder(x)

    def denoise(z: torch.Tensor) -> torch.Tensor:
        predicted = model.unet(z, step.timestep, encoder_hidden_states=model.text).sample
        return (z - sigma * predicted) / root if step.prediction == "epsilon" else root * z - sigma * predicted

    def decode(z: torch.Tensor) -> torch.Tensor:
        if model.vae_kind == "AutoencoderKL":
            return model.vae.decode(z / step.scaling_factor).sample
        return parts.vae_decoder(z)

    print("ready", flush=True)
    with torch.inference_mode():
        for _line in sys.stdin:
            seconds, x = {}, image
            for name, run in (("vae_encoder", encode), ("unet", denoise), ("vae_decoder", decode)):
                start = time.perf_counter()
                x = run(x)
                seconds[name] = time.perf_counter() - start
            print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
