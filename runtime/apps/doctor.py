"""doctor: what this machine can build and run, and the one command that adds what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import platform
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from passionsr_trt.engines.bundle.backends import BACKENDS, OPENVINO
from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import PACKAGES, Package, install, install_hint
from passionsr_trt.engines.common.free_memory import free_memory
from passionsr_trt.engines.tensorrt.gpu import InstalledGPU, gpus, jetson_model
from passionsr_trt.engines.tensorrt.library import has_driver
from passionsr_trt.runtime.apps.benchmark import cpu_name
from passionsr_trt.runtime.backends.tensorrt.bindings import BINDINGS, binding


def run_doctor() -> int:
    """Print one line per finding, what can be done here, and what to install; 0 when engines can be run here."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    print(f"  CPU       {cpu_name()}, {os.cpu_count()} cores{cpu_features()}")
    total = psutil.virtual_memory().total
    print(f"  memory    {total / 2**30:.1f} GiB, {free_memory() / 2**30:.1f} GiB free")
    jetson, found_gpus = jetson_model(), gpus()
    if jetson:
        print(f"  Jetson    {jetson}{jetpack()}")
    for gpu in found_gpus:
        print(f"  GPU       {gpu_line(gpu)}")
    if not found_gpus and not jetson:
        print(f"  GPU       none{'' if not has_driver() else ' shown, though a driver library is here'}")
    useless = set() if found_gpus else {"tensorrt", "cuda"}
    if jetson:
        useless = {"tensorrt", "rtx"}  # JetPack brings its own TensorRT, and no bindings of CUDA
    lacking = check_packages()
    missing = [package.extra for package in lacking if package.extra not in useless]
    drives = binding_runs()
    for line in odd_pairs(known_versions(), jetpack()):
        print(f"  beware    {line}")
    lacking_modules = {package.module for package in lacking}
    cpu = cpu_runs() if OPENVINO.library not in lacking_modules else False
    runs_here = print_targets(cpu, bool(found_gpus) or jetson is not None, lacking_modules, drives)
    if missing:
        print(f"to add everything that is missing, {install_hint(*missing)}")
    return 0 if runs_here else 1


def check_packages() -> list[Package]:
    """Print a line per package; returns those that are missing."""
    missing = []
    for package in PACKAGES:
        if not package.purpose:
            continue
        if not installed(package.module):
            if not package.spare:
                missing.append(package)
                print(f"  missing   {package.name:<28} {package.purpose}: {install(package.extra)}")
            continue
        try:
            version = importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError:
            version = "version unknown"
        print(f"  {'found':<9} {package.name:<28} {package.purpose} ({version})")
    return missing


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not there
        return False


def gpu_line(gpu: InstalledGPU) -> str:
    """As far as the driver tells it: a Jetson's GPU has no memory of its own."""
    known = [
        gpu.name,
        f"SM {gpu.capability}" if gpu.capability else "",
        f"{gpu.memory_mib} MiB" if gpu.memory_mib else "",
        f"driver {gpu.driver}" if gpu.driver else "",
    ]
    return ", ".join(each for each in known if each)


def binding_runs() -> bool:
    """Print which bindings of CUDA are broken; True where those that would be taken can be imported."""
    for each in BINDINGS:
        if (installed(each.package) or each.outdated()) and (problem := each.problem()):
            print(f"  beware    {each.name} is here, but cannot be used: {problem}")
    try:
        binding()
    except UserError as error:
        if error.fact.startswith("$"):
            print(f"  beware    {error}")
        return False
    return True


def cpu_runs() -> bool:
    """Print how this CPU computes INT8; True where it does so exactly with some range of weight codes."""
    from passionsr_trt.engines.openvino.compile import openvino_int8_exact
    from passionsr_trt.engines.openvino.probes import int8_speed

    if openvino_int8_exact(FULL_RANGE):
        exact = f"exact with weight codes of {FULL_RANGE}, the full range"
    elif openvino_int8_exact(HALF_RANGE):
        way_out = f"build-engines brings them into {HALF_RANGE}"
        exact = f"exact with weight codes of {HALF_RANGE} (no VNNI: full-range ones saturate; {way_out})"
    else:
        print(f"  CPU INT8: not exact even with weight codes of {HALF_RANGE}; use float engines")
        return False
    speed = ", ".join(f"{kind} {ratio:.1f}×" for kind, ratio in int8_speed().items())
    print(f"  CPU INT8: {exact}; {speed} as fast as float32")
    return True


def print_targets(cpu: bool, gpu: bool, lacking: Collection[str], drives: bool) -> bool:
    """Print what can be built and run here; True where anything can be run. lacking: modules not installed;
    drives: something here drives a GPU.
    """
    runs_anything = False
    for backend in BACKENDS:
        builds = runs = cpu
        if backend.on_gpu:
            builds = backend.library not in lacking and (gpu or backend.compiles_on_gpu)
            runs = builds and gpu and drives
        print(
            f"  target    {backend.name:<14} build: {'yes' if builds else 'no':<4} run: {'yes' if runs else 'no'}"
        )
        runs_anything |= runs
    return runs_anything


def known_versions() -> dict[str, str]:
    """Of what has to fit together on a GPU, as far as it is installed."""
    versions = {}
    for package in ("tensorrt", "onnxruntime-gpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def odd_pairs(versions: Mapping[str, str], release: str) -> list[str]:
    """What NVIDIA or Microsoft say does not go together; release: of the Jetson, `, L4T R36.4`, or empty.

    TensorRT 11.x: ONNX Runtime's provider from 1.27 on; JetPack from 7.2.2 on, JetPack 6 (L4T R36) stays on 10.x.
    """
    tensorrt = versions.get("tensorrt", "")
    if not tensorrt or numbers(tensorrt) < (11,):
        return []
    lines = []
    runtime = versions.get("onnxruntime-gpu", "")
    if runtime and numbers(runtime) < (1, 27):
        lines.append(f"TensorRT {tensorrt} beside onnxruntime-gpu {runtime}: expected 1.27 or newer")
    if "L4T R36" in release:
        lines.append(f"TensorRT {tensorrt} on JetPack 6: expected its own 10.x, or JetPack 7.2.2 or newer")
    return lines


def numbers(version: str) -> tuple[int, ...]:
    """`1.27.0` → (1, 27, 0), as far as they are numbers."""
    return tuple(int(part) for part in itertools.takewhile(str.isdigit, version.split(".")))


def cpu_features() -> str:
    """The INT8-relevant instruction sets, where the system lists them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    names = {
        "avx2": "AVX2",
        "avx512f": "AVX-512",
        "avx512_vnni": "VNNI",
        "avx_vnni": "AVX-VNNI",
        "amx_int8": "AMX",
    }
    shown = [label for flag, label in names.items() if flag in flags]
    return f" ({', '.join(shown)})" if shown else ""


def jetpack() -> str:
    """`, L4T R36.4` from the release file of a Jetson."""
    try:
        words = Path("/etc/nv_tegra_release").read_text(encoding="utf-8").replace(",", "").split()
    except OSError:
        return ""
    return f", L4T {words[1]}.{words[words.index('REVISION:') + 1]}" if "REVISION:" in words else ""
