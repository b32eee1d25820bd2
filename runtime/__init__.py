"""Engines, the chain of three, images, comparison and benchmark: everything a device runs.

`Upscaler` is for programs (docs/python.md); it is loaded when it is asked for, and with it what runs engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from passionsr_trt.runtime.upscaling import Upscaler as Upscaler

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "Upscaler":
        from passionsr_trt.runtime.upscaling import Upscaler

        return Upscaler
    if name == "__version__":
        from importlib.metadata import version

        return version("passionsr-trt")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
