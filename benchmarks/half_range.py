"""Ways to bring weight codes of ±127 into ±63 without the model: PSNR and LPIPS to the float engine's pictures.

    passionsr-trt export demo/model --float -o out/onnx/fp32
    passionsr-trt export demo/model --cache calib_cache -o out/onnx/int8
    python benchmarks/half_range.py demo/photos/lr --float out/onnx/fp32 --int8 out/onnx/int8

`build-engines` takes the last way (engines/openvino/half_range.py).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.openvino import half_range
from passionsr_trt.engines.openvino.half_range import balance, best_factors, limit_codes, limited_copy
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.openvino import OpenVINOEngine
from passionsr_trt.runtime.chain import Chain
from passionsr_trt.runtime.images import list_images, read_picture
from passionsr_trt.runtime.metrics import lpips, psnr
from passionsr_trt.runtime.planning import Options
from passionsr_trt.runtime.upscaler import super_resolve
from PIL import Image

Way = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def nearest(factors: Callable[[np.ndarray, int], np.ndarray], kernels: bool = False) -> Way:
    """Codes rounded to the nearest with `factors` for each channel; kernels: with their sums balanced."""

    def way(codes: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
        k = factors(codes.reshape(len(codes), -1), limit)
        exact = codes / k.reshape(-1, *[1] * (codes.ndim - 1))
        rounded = np.clip(np.rint(exact), -limit, limit)
        if kernels and codes.ndim > 2:
            rows = rounded.reshape(codes.shape[0] * codes.shape[1], -1)
            balance(rows, exact.reshape(rows.shape), limit)
        return rounded.astype(np.int8), k

    return way


def by_largest(rows: np.ndarray, limit: int) -> np.ndarray:
    return np.maximum(1.0, np.abs(rows.astype(np.int16)).max(axis=1) / limit)


WAYS: dict[str, Way] = {
    "left as they are": lambda codes, _limit: (codes, np.ones(len(codes))),
    "halved": nearest(lambda rows, _limit: np.full(len(rows), 2.0)),
    "scaled to the largest": nearest(by_largest),
    "least squares": nearest(best_factors),
    "and kernels balanced": nearest(best_factors, kernels=True),
    "and channels balanced": limit_codes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--float", type=Path, required=True, help="float ONNX bundle")
    parser.add_argument("--int8", type=Path, required=True, help="INT8 ONNX bundle of ±127")
    arguments = parser.parse_args()
    pictures = [read_picture(path).rgb for path in list_images(arguments.images)]
    bundle = OnnxBundle.load(arguments.int8)

    def pictures_of(graph: Callable[[PartInfo], Path], spec: QuantSpec | None) -> list[Image.Image]:
        engines = {part.name: OpenVINOEngine(partial(graph, part), spec) for part in bundle.parts}
        chain = Chain(bundle.model, bundle.parts, HostExecutor(engines), "")
        return [super_resolve(chain, picture, Options(align="none")).image for picture in pictures]

    floats = OnnxBundle.load(arguments.float)
    expected = pictures_of(lambda part: floats.open(floats.part(part.name)), None)
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:

            def changed(part: PartInfo, way: Way = way, folder: str = folder) -> Path:
                with patch.object(half_range, "limit_codes", way), limited_copy(bundle.open(part), 63) as copy:
                    return copy.rename(Path(folder) / copy.name)

            found = pictures_of(changed, QuantSpec(weight_code_limit=63))
        decibels = [psnr(*pair) for pair in zip(expected, found, strict=True)]
        distance = np.mean([lpips(*pair) for pair in zip(expected, found, strict=True)])
        print(
            f"{name:<22} {np.mean(decibels):.2f} dB (worst {min(decibels):.2f}), LPIPS {distance:.4f}", flush=True
        )


if __name__ == "__main__":
    main()
