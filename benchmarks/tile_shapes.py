"""What a tile's shape costs: seconds by the pixel of each part at several heights and widths, against the first.

    python benchmarks/tile_shapes.py --engines demo/out/engines/int8 --shapes 512x512 1024x512 512x1024 2x512x512

2x512x512: two tiles at once. The shapes in turn, medians of the rounds. runtime/tile_choice.py has what follows
from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.arguments import parse_size, whole
from passionsr_trt.runtime.loading import load_engines

SHAPES = ["512x512", "448x448", "576x512", "512x576", "1024x512", "512x1024", "2x512x512"]


def parse_shape(text: str) -> tuple[int, int, int]:
    """An argparse type: `512x576` or `2x512x576` → batch, height, width."""
    batch, _, size = text.partition("x") if text.count("x") == 2 else ("1", "", text)
    return (whole(1)(batch), *parse_size(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--shapes", type=parse_shape, nargs="+", default=[parse_shape(text) for text in SHAPES])
    parser.add_argument("--parts", nargs="+", help="by name; all where not given")
    parser.add_argument("--rounds", type=whole(1), default=3)
    parser.add_argument("--threads", type=whole(0), default=0, help="CPU threads, 0: all")
    arguments = parser.parse_args()
    chain = load_engines(arguments.engines, arguments.threads)
    random = np.random.default_rng(0)
    for part in chain.parts:
        if arguments.parts and part.name not in arguments.parts:
            continue
        inputs = [
            {
                name: random.normal(scale=0.5, size=shape).astype(np.float32)
                for name, shape in part.shapes((height, width), batch).items()
            }
            for batch, height, width in arguments.shapes
        ]
        seconds = np.zeros((arguments.rounds, len(inputs)))
        for row in seconds:
            for index, tensors in enumerate(inputs):
                chain.run_part(part, tensors)  # engines keep a few shapes only, and make the others again
                row[index] = chain.run_part(part, tensors).seconds[part.name]
        medians = np.median(seconds, axis=0)
        rates = medians / np.prod(arguments.shapes, axis=1)
        for shape, median, rate in zip(arguments.shapes, medians, rates, strict=True):
            text = "×".join(map(str, shape))
            print(f"{part.name:11} {text:>11} {median:7.3f} s, {rate / rates[0]:.3f} by the pixel", flush=True)


if __name__ == "__main__":
    main()
