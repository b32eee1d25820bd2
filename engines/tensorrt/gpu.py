"""Which NVIDIA GPU is here, without any CUDA library: nvidia-smi, or the device tree of a Jetson."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

QUERY = "--query-gpu=name,compute_cap,memory.total,driver_version"
JETSONS = {"Xavier": "7.2", "Orin": "8.7", "Thor": "11.0"}  # compute capabilities, where no nvidia-smi tells
DEVICE_TREE = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class InstalledGPU:
    """capability: `8.9`; memory in MiB. Empty or 0 where the driver does not tell (Jetsons share the memory)."""

    name: str
    capability: str
    memory_mib: int
    driver: str


def parse_gpus(text: str) -> list[InstalledGPU]:
    """nvidia-smi's CSV without header or units, one line per GPU; `[N/A]` stands for unknown."""
    installed = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 4:
            continue
        name, capability, memory, driver = ("" if field.startswith("[") else field for field in fields)
        installed.append(InstalledGPU(name, capability, int(memory) if memory.isdigit() else 0, driver))
    return installed


def gpus() -> list[InstalledGPU]:
    """All GPUs that the driver shows; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        result = subprocess.run(
            [program, QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(result.stdout)


def jetson_model() -> str | None:
    """`NVIDIA Jetson AGX Orin …`, or None elsewhere."""
    try:
        name = DEVICE_TREE.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return None
    return name if "Jetson" in name else None


def jetson_capability(name: str) -> str:
    """`8.7` of a Jetson's name, empty where it tells nothing."""
    return next((capability for word, capability in JETSONS.items() if word in name), "")


def target_name() -> dict[str, str]:
    """What an engine that is built for the GPU at hand is tied to."""
    jetson = jetson_model()
    first = next(iter(gpus()), None)
    if first is None:
        return {"gpu": jetson or "", "capability": jetson_capability(jetson or "")}
    return {"gpu": jetson or first.name, "capability": first.capability}
