"""How many of a ResShift model's codes INT8 flips: the nearest code of x0 at every position, float against INT8.

    python benchmarks/code_flips.py LOW_RES_PHOTOS --model MODEL --reference out/onnx/fp32 \
        --engines out/engines/int8

One flipped code is another patch of 4×4 pixels, however near the two codes were: PSNR to float counts flips.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.picture_files import list_images
from passionsr_trt.engines.bundle.pictures import read_picture, to_array, upscale
from passionsr_trt.runtime.images import chain_sources
from passionsr_trt.runtime.loading import load_engines, open_onnx
from safetensors import safe_open

AT_ONCE = 1024  # positions


def nearest(x0: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """[B·h·w] of x0 [B, C, h, w] and codes [K, C]."""
    positions = np.moveaxis(x0, 1, -1).reshape(-1, x0.shape[1])
    slices = (positions[start : start + AT_ONCE] for start in range(0, len(positions), AT_ONCE))
    return np.concatenate([np.square(few[:, None] - codes[None]).sum(-1).argmin(-1) for few in slices])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True, help="the float bundle")
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=8)
    arguments = parser.parse_args()
    with safe_open(arguments.model / "autoencoder.safetensors", framework="np") as file:
        codes = file.get_tensor("quantize.embedding.weight")
    chains = [open_onnx(OnnxBundle.load(arguments.reference)), load_engines(arguments.engines)]
    flipped = []
    for path in list_images([arguments.images])[: arguments.limit]:
        rgb = read_picture(path).rgb
        parts, enlarged = chains[0].parts, to_array(upscale(rgb, chains[0].model.upscale))
        sources = chain_sources(rgb, enlarged, parts, seed=0)
        exact, quantized = (nearest(chain.tensors(sources)["x0"], codes) for chain in chains)
        flipped.append(float(np.mean(exact != quantized)))
        print(f"{path.name:<24} {flipped[-1]:7.2%} of {exact.size} codes flipped", flush=True)
    print(f"{'mean':<24} {np.mean(flipped):7.2%}")


if __name__ == "__main__":
    main()
