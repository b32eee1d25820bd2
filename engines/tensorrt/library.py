"""Which TensorRT is installed, and is there a driver? Asked without ONNX, so that a runtime alone can ask."""

from __future__ import annotations

import ctypes.util
import importlib
import sys
from typing import Any

from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import extra_of, install

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}


def load_tensorrt(backend: str) -> Any:
    """The backend's module, or the one line that installs it."""
    try:
        return importlib.import_module(MODULES[backend])
    except (ImportError, OSError) as error:
        fix = f"`{install(extra_of(MODULES[backend]))}`"
        raise UserError(f"{backend} is not installed ({error})", "", fix) from None


def has_driver() -> bool:
    """True where the CUDA driver's library can be found."""
    return ctypes.util.find_library("nvcuda" if sys.platform == "win32" else "cuda") is not None
