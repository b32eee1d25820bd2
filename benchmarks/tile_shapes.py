"""What a tile's shape costs: seconds by the pixel of each part at several heights and widths, against the first.

    python benchmarks/tile_shapes.py --engines demo/out/engines/int8 --shapes 512x512 1024x512 512x1024

The shapes in turn, medians of the rounds. runtime/tile_choice.py has what follows from it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from passionsr_trt.engines.cli import parse_size, whole
from passionsr_trt.runtime.chain import load_engines

SHAPES = [(512, 512), (448, 448), (576, 512), (512, 576), (1024, 512), (512, 1024)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--shapes", type=parse_size, nargs="+", default=SHAPES)
    parser.add_argument("--rounds", type=whole(1), default=3)
    parser.add_argument("--threads", type=whole(0), default=0, help="CPU threads, 0: all")
    arguments = parser.parse_args()
    chain = load_engines(arguments.engines, arguments.threads)
    random = np.random.default_rng(0)
    for part, (channels, unit) in {"vae_encoder": (3, 1), "unet": (4, 8), "vae_decoder": (4, 8)}.items():
        inputs = [
            random.normal(scale=0.5, size=(1, channels, height // unit, width // unit)).astype(np.float32)
            for height, width in arguments.shapes
        ]
        for tensor in inputs:  # compiles
            chain.engines[part].run(tensor)
        seconds = np.zeros((arguments.rounds, len(inputs)))
        for row in seconds:
            for index, tensor in enumerate(inputs):
                start = time.perf_counter()
                chain.engines[part].run(tensor)
                row[index] = time.perf_counter() - start
        medians = np.median(seconds, axis=0)
        rates = medians / np.prod(arguments.shapes, axis=1)
        for (height, width), median, rate in zip(arguments.shapes, medians, rates, strict=True):
            print(
                f"{part:11} {height:4}×{width:<4} {median:7.3f} s, {rate / rates[0]:.3f} by the pixel", flush=True
            )


if __name__ == "__main__":
    main()
