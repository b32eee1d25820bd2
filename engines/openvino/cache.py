"""Compiled OpenVINO models, kept in the user's cache folder: a shape that was met before is loaded, not compiled.

A file is a model's SHA-256 (32 bytes) and then what OpenVINO exported; it is checked before OpenVINO reads it.
Its name is a digest of all that decides what it is. The least recently used go first where they take too much.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.common.user_cache import cache_folder, write_cached

FOLDER = "openvino"
SUFFIX = ".compiled"
DIGEST = 32  # bytes


@dataclass(frozen=True)
class CompiledCache:
    """Models in the user's cache folder, of at most `size` bytes together."""

    size: int

    def load(self, key: str) -> np.ndarray | None:
        """The model of `key` as uint8, None where there is none; what is damaged is removed.

        The file is mapped, not copied into memory.
        """
        try:
            path = cache_folder(FOLDER) / f"{key}{SUFFIX}"
            content = np.memmap(path, np.uint8, mode="c") if path.stat().st_size else np.empty(0, np.uint8)
        except OSError:
            return None
        if hashlib.sha256(content[DIGEST:].data).digest() != content[:DIGEST].tobytes():
            del content
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        return content[DIGEST:]

    def keep(self, key: str, content: bytes) -> None:
        """Keep a model where it fits; a disk that refuses costs a warning and time."""
        if len(content) <= self.size - DIGEST:
            self._make_room(len(content) + DIGEST)
            write_cached(FOLDER, f"{key}{SUFFIX}", hashlib.sha256(content).digest() + content)

    def _make_room(self, wanted: int) -> None:
        """Remove the least recently used until `wanted` more bytes fit."""
        with suppress(OSError):
            models = sorted(
                cache_folder(FOLDER).glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True
            )
            total = wanted
            for path in models:
                total += path.stat().st_size
                if total > self.size:
                    path.unlink(missing_ok=True)


def model_key(digest: str, shapes: Mapping[str, tuple[int, ...]], **options: Any) -> str:
    """Names what an engine's file (by its SHA-256) becomes for some shapes, with these options, here."""
    decisive = {"file": digest, "shapes": sorted(shapes.items()), **options, **here()}
    return hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()


@cache
def here() -> dict[str, Any]:
    """What decides how this machine's OpenVINO compiles: its version, the processor, limits set from outside."""
    import openvino as ov
    from passionsr_trt.engines.openvino.core import the_core

    core = the_core()
    variables = sorted((key, value) for key, value in os.environ.items() if key.startswith(("ONEDNN_", "OV_")))
    return {
        "openvino": ov.get_version(),
        "cpu": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "capabilities": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "variables": variables,
    }


def _instructions() -> str:
    """The processor's own list, where the system shows it: virtual machines of one name differ in it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line.split(":", 1)[1].strip()
    return ""
