"""What differs between TensorRT 10.3 … 11.x, JetPack and TensorRT-RTX, in one place.

| what                  | TensorRT ≥ 10 | on JetPack | TensorRT-RTX |
| --------------------- | ------------- | ---------- | ------------ |
| timing cache          | yes           | yes        | no (a no-op) |
| hardware-compatible   | yes           | no         | no           |
| version-compatible    | yes           | yes        | no (its lean library is not shipped) |
| compile for a GPU that is not here | no | no        | yes          |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from passionsr_trt.engines.bundle.backends import Backend
from passionsr_trt.engines.common.errors import UserError

OLDEST = (10, 3)


@dataclass(frozen=True)
class Features:
    """What one installed TensorRT can do; the reason says why not."""

    platform: str
    timing_cache: bool
    hardware_compatible: bool
    version_compatible: bool
    foreign_capabilities: bool

    def require(self, name: str, option: str) -> None:
        """UserError where the platform lacks the feature that `option` asks for."""
        if not getattr(self, name):
            raise UserError(f"{option}: {self.platform} does not support it", "", f"build without {option}")


def features(backend: Backend, version: str, jetson: bool) -> Features:
    """Features of a backend's library at `version`; TensorRT before 10.3 is refused."""
    if backend.compiles_on_gpu:
        return Features(
            f"{backend.label} {version}",
            timing_cache=False,
            hardware_compatible=False,
            version_compatible=False,
            foreign_capabilities=True,
        )
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < OLDEST:
        raise UserError(f"TensorRT {version} is too old", "expected 10.3 or newer", "update TensorRT or JetPack")
    platform = f"TensorRT {version}" + (" on JetPack" if jetson else "")
    return Features(
        platform,
        timing_cache=True,
        hardware_compatible=not jetson,
        version_compatible=True,
        foreign_capabilities=False,
    )


def network_flags(trt: Any) -> int:
    """Networks are strongly typed: 11.x knows nothing else and may drop the flag, 10.x and RTX ask for it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "cudaerrormemoryallocation", "bad_alloc")
NO_KERNEL = "could not find any implementation"
UNSUPPORTED = ("no importer registered", "unsupported operator", "unsupported node", "not supported")


def explain(messages: list[str], workspace_mib: int) -> tuple[str, str, str]:
    """A failed build's messages → fact, expectation, way out.

    Out of memory is often reported as a missing kernel: tactics that did not fit were skipped before.
    """
    lower = [message.lower() for message in messages]
    short = any(word in message for message in lower for word in OUT_OF_MEMORY)
    missing = next((text for text, low in zip(messages, lower, strict=True) if NO_KERNEL in low), None)
    if short or (missing is not None and workspace_mib):
        limit = f"--workspace {workspace_mib} MiB" if workspace_mib else "the GPU's memory"
        return (
            f"ran out of memory ({limit}): {missing or messages[-1]}",
            "expected room for the engine's scratch memory",
            "raise --workspace, build a smaller --max-size, or free GPU memory",
        )
    if missing is not None:
        return missing, "expected a kernel for every layer", "update TensorRT, or report the layer"
    for text, low in zip(messages, lower, strict=True):
        if any(word in low for word in UNSUPPORTED):
            return text, "expected operators that this TensorRT knows", "update TensorRT, or report the node"
    return (messages[-1] if messages else "no reason given"), "expected an engine", "see the build log"
