"""An image network as ncnn's files, for side_by_side.py: what Upscayl and its like run.

    pip install ncnn pnnx
    python benchmarks/to_ncnn.py demo/realesrgan/network.safetensors -o out/ncnn

The authors' own module is traced and converted by ncnn's converter; weights are stored in half precision, as that
does unless told otherwise, and computed with in float32.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import pnnx
import torch
from passionsr_trt.export.families.image_network.checkpoints import read_network, recognise

CONVERTER = Path(pnnx.__file__).parent / "pnnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="network.ncnn.param, network.ncnn.bin")
    arguments = parser.parse_args()
    module = recognise(read_network(arguments.network), str(arguments.network)).model.eval()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "network.pt"
        torch.jit.trace(module, torch.rand(1, 3, 64, 64)).save(str(traced))
        param, weights = (arguments.output.resolve() / f"network.ncnn.{kind}" for kind in ("param", "bin"))
        words = [str(CONVERTER), str(traced), "inputshape=[1,3,64,64]", "inputshape2=[1,3,96,80]"]
        words += [f"ncnnparam={param}", f"ncnnbin={weights}"]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
