"""The float model and everything that needs PyTorch: fold, calibrate, emit QDQ ONNX.

`quantize_model` is for programs (docs/python.md); it is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from passionsr_trt.export.quantize_plan import Quantized as Quantized
    from passionsr_trt.export.quantize_run import quantize_model as quantize_model

LAZY = {"Quantized": "quantize_plan", "quantize_model": "quantize_run"}


def __getattr__(name: str) -> Any:
    if name in LAZY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
