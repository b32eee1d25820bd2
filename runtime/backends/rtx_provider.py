"""ONNX Runtime's TensorRT-RTX provider: a plug-in of NVIDIA's that is registered when it is first asked for.

It brings TensorRT-RTX along and compiles a graph for the card at hand when it is loaded: the way for who has ONNX
Runtime already, on Windows above all.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
from passionsr_trt.engines.common.errors import UserError, reason_of

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu12"
NEEDS = "expected an RTX card of the series 30 or newer, and its driver"


def rtx_session(graph: Path) -> Any:
    """An onnxruntime.InferenceSession of the first card; nodes that the plug-in does not take run on the CPU.

    UserError where the plug-in, a card or its driver is missing, or the graph cannot be loaded.
    """
    name = registered()
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise UserError(f"{name}: no device for it here", NEEDS)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_provider_for_devices(devices[:1], {})
    try:
        return onnxruntime.InferenceSession(str(graph), options)
    except Exception as error:  # its exception types are private and many
        raise UserError(f"{graph}: {name} cannot load it ({reason_of(error)})") from error


@cache
def registered() -> str:
    """The provider's name, after its library was loaded."""
    try:
        plugin = importlib.import_module(MODULE)
    except ImportError:
        raise UserError(
            f"--provider nv-tensorrt-rtx: {PACKAGE} is not installed",
            "expected it beside onnxruntime 1.24 or newer",
            "`pip install onnxruntime-ep-nv-tensorrt-rtx-cu12`",
        ) from None
    library, name = Path(plugin.get_library_path()), str(plugin.get_ep_name())
    try:
        for runtime in library.parent.glob("libcudart.so.*"):  # the wheel's, which its library does not find
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        onnxruntime.register_execution_provider_library(name, str(library))
    except Exception as error:  # of the loader, or a private type of ONNX Runtime's
        raise UserError(f"{name}: its library cannot be loaded ({reason_of(error)})", NEEDS) from None
    return name
