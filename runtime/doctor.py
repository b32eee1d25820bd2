"""doctor: what this machine can build and run, and the one command that adds what is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform

from passionsr_trt.engines.tensorrt_builder import has_driver

# package: (module, extra, what it is for)
PACKAGES = {
    "openvino": ("openvino", "cpu", "build and run INT8 engines on this CPU"),
    "onnxruntime": ("onnxruntime", "cpu", "reference results, float baseline"),
    "polygraphy": ("polygraphy", "compare", "per-part comparison"),
    "scikit-image": ("skimage", "compare", "SSIM"),
    "torch": ("torch", "export", "calibrate and export"),
    "diffusers": ("diffusers", "export", "load models"),
    "tensorrt-rtx-cu12-bindings": (
        "tensorrt_rtx_bindings",
        "rtx",
        "compile engines for RTX cards, GPU not needed",
    ),
    "tensorrt": ("tensorrt", "tensorrt", "build engines on the GPU at hand"),
}


def run_doctor(_arguments: argparse.Namespace) -> int:
    """Print one line a finding; the exit code is 0 when engines can be run here."""
    print(
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    missing: dict[str, str] = {}
    for package, (module, extra, purpose) in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            missing[package] = extra
            print(f"  missing   {package:<28} {purpose}: pip install passionsr-trt[{extra}]")
        else:
            try:
                version = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                version = "version unknown"
            print(f"  {'found':<9} {package:<28} {purpose} ({version})")
    runs_here = "openvino" not in missing
    if runs_here:
        from passionsr_trt.engines.cpu import openvino_int8_exact

        if openvino_int8_exact(127):
            print("  CPU INT8: exact with full-range weights")
        elif openvino_int8_exact(63):
            print('  CPU INT8: saturates (no VNNI); calibrate with "weight_code_limit": 63, or use float engines')
        else:
            runs_here = False
            print("  CPU INT8: not exact even with ±63 codes; use float engines")
    driver = "found" if has_driver() else "none; TensorRT-RTX can still compile with --compute-capability"
    print(f"  NVIDIA driver: {driver}")
    return 0 if runs_here else 1
