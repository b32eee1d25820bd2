"""Which TensorRT is installed, and is there a driver? Asked without ONNX, so that a runtime alone can ask."""

from __future__ import annotations

import ctypes
import importlib
import sys
from typing import Any

from passionsr_trt.engines.bundle.backends import Backend
from passionsr_trt.engines.common.errors import NotHereError
from passionsr_trt.engines.common.extras import extra_of, install_hint

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"  # the CUDA driver's library


def load_tensorrt(backend: Backend) -> Any:
    """The backend's library; NotHereError with the one line that installs it."""
    try:
        return importlib.import_module(backend.library)
    except (ImportError, OSError) as error:
        fix = install_hint(extra_of(backend.library))
        raise NotHereError(f"{backend} is not installed ({error})", "", fix) from None


def has_driver() -> bool:
    """True where the CUDA driver's library can be loaded.

    It is loaded by its name: `find_library` needs ldconfig or a compiler, which slim containers lack.
    """
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True
