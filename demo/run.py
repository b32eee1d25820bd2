"""The demo: `quantize` on the bundled model, then the photos by its engines and a table.

    python demo/run.py [--model demo/model] [--output demo/out]

Each command is printed before it runs, so that it can be repeated by hand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from passionsr_trt.engines.bundle.formats import FULL_RANGE
from passionsr_trt.engines.openvino.compile import openvino_int8_exact
from passionsr_trt.runtime.backends.packaged import REALESR_GENERAL

COMMAND = [sys.executable, "-m", "passionsr_trt.runtime"]
DEMO = Path("demo")
NAMES = {"model": "demo model", "realesrgan": REALESR_GENERAL.title}  # of the folders in demo/
ENGINES = {"fp32": "float", "int8": "engines"}  # of the pictures: a folder of `quantize`'s


def call(*arguments: str | Path) -> None:
    """Run one subcommand; stop the demo with its exit code where it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ passionsr-trt {shlex.join(words)}", flush=True)
    status = subprocess.run([*COMMAND, *words], check=False).returncode
    if status:
        sys.exit(status)


def fitting_calibration() -> tuple[list[str | Path], Path]:
    """Options of `calibrate` and the cache for this CPU: full-range weight codes where they are exact on it."""
    cache = Path("calib_cache")
    if openvino_int8_exact(FULL_RANGE):
        return ["--method", "learned"], cache
    print("this CPU's INT8 kernels saturate with full-range weights (no VNNI): calibrated for codes within ±63")
    return ["--spec", DEMO / "no_vnni.json"], cache / "no_vnni"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO / "model")
    parser.add_argument("--output", type=Path, default=DEMO / "out")
    arguments = parser.parse_args()
    model, out = arguments.model, arguments.output
    photos, originals = DEMO / "photos" / "lr", DEMO / "photos" / "hr"
    started = time.monotonic()

    spec, cache = fitting_calibration()
    judged = ("--test", photos, "--ground-truth", originals, "--drawn")
    name = ("--name", NAMES.get(model.name, model.name))
    call("quantize", model, "--images", DEMO / "calib" / "lr", *spec, "--cache", cache, *name, *judged, "-o", out)
    for kind, engines in ENGINES.items():
        call("infer", photos, "-o", out / "pictures" / kind, "--engines", out / engines, "--align", "none")

    summarize(out, time.monotonic() - started)


def summarize(out: Path, seconds: float) -> None:
    report = json.loads((out / "compare" / "comparison.json").read_text(encoding="utf-8"))
    comparison, drawn = report["mean"], report["drawn"]["mean"]["to_float"]
    speed = json.loads((out / "benchmark" / "benchmark.json").read_text(encoding="utf-8"))
    to_float = comparison["to_float"]
    print(f"\nDone in {seconds / 60:.1f} minutes.\n")
    print(f"  INT8 against float output   PSNR {to_float['psnr']:.2f} dB, LPIPS {to_float['lpips']:.4f}")
    print(f"  on drawn pictures           PSNR {drawn['psnr']:.2f} dB (worst {drawn['psnr_worst']:.2f})")
    if "tested_to_truth" in comparison:
        for key, name in (("float_to_truth", "float"), ("tested_to_truth", "INT8")):
            row = comparison[key]
            print(f"  {name:<5} against originals     PSNR {row['psnr']:.2f} dB, LPIPS {row['lpips']:.4f}")
    for label, ratios in speed["speedup"].items():
        print(f"  INT8 speed-up over {label:<20} {ratios['chain']:.2f}×")
    print(f"  INT8 speed-up over the fastest parts       {speed['speedup_over_fastest_parts']['chain']:.2f}×\n")
    print(f"  pictures     {out / 'pictures' / 'int8'}, {out / 'pictures' / 'fp32'}")
    print(f"  side by side {out / 'compare' / 'overview.png'}")
    print(f"  speed chart  {out / 'benchmark' / 'benchmark.png'}")
    print(f"  engines      {out / 'engines'}, {out / 'float'}")
    print(f"  reports      {out / 'report.html'}, {out / 'speed.html'}")


if __name__ == "__main__":
    main()
