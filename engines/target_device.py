"""What engines are to run on, by the name that a user gives it: backend, format of codes, compute capability.

Which format each card gets, and why: docs/gpu.md#which-format-for-which-card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from passionsr_trt.engines.bundle.backends import OPENVINO, TENSORRT, TENSORRT_RTX, Backend
from passionsr_trt.engines.bundle.formats import FP8, INT8, Capability, CodeFormat, capability
from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.tensorrt.gpu import target_name
from passionsr_trt.engines.tensorrt.roofline import KnownGPU, known_gpus

CPU = "cpu"
# from this compute capability on: what builds, and the format of codes
ROWS: tuple[tuple[Capability, Backend, CodeFormat], ...] = (
    ((12, 0), TENSORRT_RTX, FP8),
    ((10, 0), TENSORRT, FP8),
    ((9, 0), TENSORRT, INT8),
    ((8, 9), TENSORRT_RTX, FP8),
    ((7, 5), TENSORRT, INT8),
)
# GeForce cards that the table of rates need not hold; the RTX 2050 is no Turing
SERIES = (
    (r"rtx20[678]0", "7.5"),
    (r"rtx(2050|30[5-9]0)", "8.6"),
    (r"rtx40[5-9]0", "8.9"),
    (r"rtx50[5-9]0", "12.0"),
)
VARIANT = r"(ti|super|d|v2|laptop|mobile|maxq|gpu|\d+gb?)*"  # what may follow: RTX 4070 Ti Super, RTX 3060 12GB


@dataclass(frozen=True)
class TargetDevice:
    """label: for a reader. capability: `8.9`, empty for a CPU. gpus: known GPUs that a prediction can be for."""

    label: str
    backend: Backend
    format: CodeFormat
    capability: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """Of everything that is not quantized: OpenVINO chooses it on the CPU, TensorRT takes what is exported."""
        return "fp16" if self.backend.on_gpu else "fp32"

    @property
    def here(self) -> bool:
        """Can its engines run on this machine?"""
        return not self.backend.on_gpu or target_name()["capability"] == self.capability

    @property
    def builds_here(self) -> bool:
        """TensorRT-RTX compiles for a GPU that is elsewhere, TensorRT for the one at hand."""
        return self.here or self.backend.compiles_on_gpu


def target_device(name: str) -> TargetDevice:
    """`cpu`, a GPU's name or a part of it (`RTX 4090`, `orin`), or a compute capability (`8.9`).

    UsageError where it is none of them, or could be several unlike ones.
    """
    if name.strip().lower() == CPU:
        return TargetDevice("this CPU", OPENVINO, INT8)
    gpus, words = known_gpus(), _words(name)
    if re.fullmatch(r"\d{1,2}\.\d", name):
        return _gpu(f"compute capability {name}", name, [gpu for gpu in gpus if gpu.capability == name])
    found = [gpu for gpu in gpus if "".join(_words(gpu.name)) == "".join(words)]
    if not found and (
        stated := next((of for series, of in SERIES if re.fullmatch(series + VARIANT, "".join(words))), "")
    ):
        alike = [gpu for gpu in gpus if gpu.capability == stated]
        return _gpu(f"{name} (compute capability {stated})", stated, alike)
    if not found and words:
        found = [gpu for gpu in gpus if set(words) <= set(_words(gpu.name))]
    if len({gpu.capability for gpu in found}) != 1:
        raise _unknown(name, [gpu.name for gpu in found])
    names = " or ".join(gpu.name for gpu in found)
    return _gpu(f"{names} (compute capability {found[0].capability})", found[0].capability, found)


def _words(name: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", name.lower()) if word not in ("nvidia", "geforce", "jetson")]


def _gpu(label: str, stated: str, gpus: Sequence[KnownGPU]) -> TargetDevice:
    for least, backend, codes in ROWS:
        if capability(stated) >= least:
            return TargetDevice(label, backend, codes, stated, tuple(gpu.name for gpu in gpus))
    raise UsageError(f"--for: {label}", "expected compute capability 7.5 or newer: older GPUs have no INT8")


def _unknown(name: str, several: Sequence[str]) -> UsageError:
    if several:
        return UsageError(f"--for {name!r} could be {', '.join(several)}", "expected one of them")
    known = [gpu.name for gpu in known_gpus()]
    plain = {"".join(_words(known_name)): known_name for known_name in known}
    near = [plain[match] for match in get_close_matches("".join(_words(name)), plain, n=3, cutoff=0.5)]
    return UsageError(
        f"--for {name!r}: not known",
        f"expected {CPU}, a compute capability such as 8.6, or a GPU: {', '.join(near or known)}",
    )
