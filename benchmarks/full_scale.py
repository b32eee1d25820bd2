"""Everything at the size of Stable Diffusion 2.1, on this CPU: export, speed, image sizes.

    python benchmarks/full_scale.py --images demo/calib/lr -o out/full_scale

Random weights of the real shapes (sd21_model.py; --width makes them smaller): times and memory are the real
model's, pictures mean nothing. Steps whose results are there are left out. It takes 24 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from own_commands import command, own, peak_mib
from PIL import Image

HERE = Path(__file__).parent
OUTPUT_SIZES = (512, 1024, 2048)


def prepare(folder: Path, width: float, images: Path) -> None:
    """Model, calibration (ranges of two images), ONNX and engines; what each stage takes."""
    model, spec = folder / "model", folder / "spec.json"
    if not model.is_dir():
        make = [sys.executable, str(HERE / "sd21_model.py"), "-o", str(model), "--width", str(width)]
        subprocess.run(make, check=True)
    spec.write_text(json.dumps({"method": "range", "activation_observer": "minmax"}))
    cache = folder / "calib_cache"
    stages: list[tuple[str, list[object]]] = [
        ("calibrate", ["calibrate", model, "--images", images, "--limit", 2, "--spec", spec, "--cache", cache]),
        ("export INT8", ["export", model, "--cache", cache, "-o", folder / "onnx" / "int8"]),
        ("export FP32", ["export", model, "--float", "-o", folder / "onnx" / "fp32"]),
        ("build INT8", ["build-engines", folder / "onnx" / "int8", "-o", folder / "engines" / "int8"]),
        ("build FP32", ["build-engines", folder / "onnx" / "fp32", "-o", folder / "engines" / "fp32"]),
    ]
    for name, words in stages:
        start = time.monotonic()
        peak = peak_mib(own(*words))
        print(f"{name:<14}{time.monotonic() - start:8.0f} s {peak / 1024:6.1f} GiB at its peak", flush=True)
    for precision in ("int8", "fp32"):
        size = sum(path.stat().st_size for path in (folder / "engines" / precision).rglob("*.onnx*"))
        print(f"{precision.upper()} engines {size / 1e9:.2f} GB")


UPSCALE = """
import json, sys
from pathlib import Path
import numpy as np
from passionsr_trt.runtime.chain import load_engines
from passionsr_trt.runtime.images import read_picture
from passionsr_trt.runtime.upscaler import Options, super_resolve
chain, picture = load_engines(Path(sys.argv[1])), read_picture(Path(sys.argv[2])).rgb
whole = picture.width * chain.model.upscale
tile = Options().tile_for(whole, whole, chain.limits) or whole
chain.run(np.zeros((1, 3, tile, tile), np.float32))  # compiles
result = super_resolve(chain, picture, Options())
Path(sys.argv[3]).write_text(json.dumps({"seconds": sum(result.seconds.values()), "tile": result.tile}))
"""


def image_sizes(folder: Path) -> None:
    """Seconds of the chain per output megapixel and peak memory, by the size of the picture."""
    for side in OUTPUT_SIZES:
        source, result = folder / f"lr{side}.png", folder / f"sr{side}.json"
        noise = np.random.default_rng(0).integers(0, 256, (side // 64, side // 64, 3), np.uint8)
        Image.fromarray(noise).resize((side // 4, side // 4), Image.Resampling.BICUBIC).save(source)
        peak = peak_mib([sys.executable, "-c", UPSCALE, *map(str, (folder / "engines" / "int8", source, result))])
        found = json.loads(result.read_text())
        rate = found["seconds"] / (side * side / 1e6)
        tiles = f"tiles of {found['tile']}" if found["tile"] else "untiled"
        print(f"{side}²: {rate:6.1f} s a megapixel, {peak / 1024:.1f} GiB at its peak, {tiles}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="low-resolution pictures to calibrate with")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, arguments.width, arguments.images)
    engines, onnx = folder / "engines", folder / "onnx"
    measured = [
        "benchmark",
        "--engines",
        engines / "int8",
        "--baseline",
        engines / "fp32",
        "--onnx",
        onnx / "fp32",
    ]
    command(*measured, "--runs", arguments.runs, "--profile", "-o", folder / "benchmark")
    eager = [sys.executable, HERE / "side_by_side.py", "--model", folder / "model", "--engines", engines / "int8"]
    subprocess.run([str(word) for word in (*eager, "-o", folder / "eager")], check=True)
    image_sizes(folder)


if __name__ == "__main__":
    main()
