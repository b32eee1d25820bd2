"""Which PyTorch `make setup` installs: a CPU build where there is no GPU and one can be had, else PyPI's wheel.

PyPI's wheel for Linux is a CUDA build and brings NVIDIA's libraries. CPU builds lie on PyTorch's own index, which
may be out of reach: one short look decides. The versions are those of constraints.txt.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS = 6  # of the whole look, name resolution too
PACKAGES = ("torch", "torchvision")
KINDS = ("auto", "cpu", "cuda")
# what is fetched, and what it takes on the disk
SIZES = {
    "cpu": "PyTorch's CPU build: about 0.2 GB to download",
    "cuda": "PyTorch's CUDA build from PyPI, NVIDIA's libraries too: about 3 GB to download, over 5 on the disk",
    "pypi": "PyTorch from PyPI: less than 0.5 GB to download",  # Windows, macOS
}


@dataclass(frozen=True)
class Plan:
    """size: a key of SIZES; words: of `pip install`."""

    size: str
    words: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`, as TORCH= has it."""
        return "cuda" if self.size == "cuda" else "cpu"


def pins(constraints: Path) -> dict[str, str]:
    """Package → version, of PACKAGES."""
    found = re.findall(r"^(torch|torchvision)==(\S+)$", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def plan(wanted: str, versions: dict[str, str], linux: bool, gpu: bool, reachable: bool) -> Plan | None:
    """What is installed; None where a CPU build is wanted and cannot be had.

    linux: elsewhere PyPI's wheels are CPU builds. reachable: the index has the CPU build for this Python.
    """
    from_pypi = tuple(f"{name}=={versions[name]}" for name in PACKAGES)
    if not linux:
        return Plan("pypi", from_pypi)
    if wanted == "cpu" or (wanted == "auto" and not gpu):
        if reachable:
            return Plan("cpu", ("--extra-index-url", INDEX, *(f"{pin}+cpu" for pin in from_pypi)))
        if wanted == "cpu":
            return None
    return Plan("cuda", from_pypi)


def has_cpu_build(index: str, version: str, python: str, seconds: int = SECONDS) -> bool:
    """Does an index answer in time, and list torch's CPU build for a Python (`cp311`)?"""
    code = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())"
    try:  # in a process of its own: a resolver that hangs knows no time limit
        words = [sys.executable, "-c", code, f"{index}/torch/"]
        page = subprocess.run(words, capture_output=True, timeout=seconds, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return f"torch-{version}%2Bcpu-{python}-".encode() in page


def main(wanted: str) -> int:
    """0 where PyTorch is installed, with a mark of its kind in the environment for the Makefile."""
    if wanted not in KINDS:
        print(f"error: TORCH={wanted}; expected {' or '.join(KINDS[1:])}", file=sys.stderr)
        return 2
    versions = pins(Path(__file__).with_name("constraints.txt"))
    linux, gpu = sys.platform == "linux", shutil.which("nvidia-smi") is not None
    looked = linux and (wanted == "cpu" or (wanted == "auto" and not gpu))
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    reachable = looked and has_cpu_build(INDEX, versions["torch"], python)
    chosen = plan(wanted, versions, linux, gpu, reachable)
    if chosen is None:
        fact = f"error: {INDEX} does not answer, or has no torch {versions['torch']} for this Python"
        print(f"{fact}; expected its CPU build; TORCH=cuda takes PyPI's wheel", file=sys.stderr)
        return 1
    why = f" ({INDEX} cannot be reached, or has none for this Python)" if looked and not reachable else ""
    print(f"{SIZES[chosen.size]}{why}", flush=True)
    status = installed(chosen)
    if status and wanted == "auto" and chosen.kind == "cpu" and linux:  # the wheels lie on another host
        chosen = Plan("cuda", tuple(f"{name}=={versions[name]}" for name in PACKAGES))
        print(f"that failed; {SIZES[chosen.size]}", flush=True)
        status = installed(chosen)
    return status


def installed(chosen: Plan) -> int:
    """pip's status."""
    status = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *chosen.words], check=False).returncode
    if status == 0:
        Path(sys.prefix, f".torch-{chosen.kind}").touch()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "auto"))
