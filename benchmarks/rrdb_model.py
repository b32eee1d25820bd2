"""Real-ESRGAN's RRDB network with random weights, to measure its speed: x4plus has 23 blocks, x4plus-anime 6.

python benchmarks/rrdb_model.py -o out/rrdb.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = ESRGAN(num_filters=64, num_blocks=arguments.blocks, scale=4)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, arguments.output)


if __name__ == "__main__":
    main()
