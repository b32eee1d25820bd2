"""Compile one ONNX part for the CPU at one fixed shape.

OpenVINO reads our ONNX graphs as they are. Shapes are fixed in the graph before it is read, because of two
faults seen in OpenVINO 2026.4.1 that both leave no message:
1. with dynamic H and W, a bias-free convolution whose output feeds both a residual sum and a quantizer
   gives wrong numbers (relative error 0.3 against ONNX Runtime, 0.01 with fixed shapes);
2. `Model.reshape` on a dynamic model leaves most weights' DequantizeLinear unfused: float kernels.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import openvino as ov
from passionsr_trt.engines.cpu import COMPILE_OPTIONS, openvino_int8_exact
from passionsr_trt.engines.errors import UserError


def check_cpu(spec: dict[str, Any] | None) -> None:
    """Refuse full-range INT8 weights on a CPU whose INT8 kernels saturate."""
    if spec is None:
        return
    limit = int(spec["weight_code_limit"])
    if not openvino_int8_exact(limit):
        raise UserError(
            f"this CPU's INT8 kernels saturate with weight codes up to ±{limit} (no VNNI)",
            "expected exact INT8",
            'use the float engines, or calibrate with "weight_code_limit": 63 in the spec',
        )


def compile_static(path: Path, shape: Sequence[int], threads: int = 0, **more: Any) -> Any:
    """An ov.CompiledModel of the graph in `path` for one input shape [B, C, H, W]; `more`: OpenVINO properties."""
    options: dict[str, Any] = {**COMPILE_OPTIONS, **more}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    core = ov.Core()
    try:
        return core.compile_model(_read_fixed(core, path, shape), "CPU", options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: OpenVINO cannot load it ({str(error).splitlines()[0]})") from error


def _read_fixed(core: Any, path: Path, shape: Sequence[int]) -> Any:
    """The ov.Model of the graph with the input's shape set.

    Weights in a file beside the graph (large models) stay there: the changed graph is written to a temporary
    folder that links to it, since a protobuf in memory ends at 2 GB.
    """
    model = onnx.load(str(path), load_external_data=False)
    _fix_shape(model, path.name, shape)
    beside = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not beside:
        return core.read_model(model.SerializeToString(), b"")
    with tempfile.TemporaryDirectory(prefix="passionsr-trt-", ignore_cleanup_errors=True) as folder:
        for name in beside:
            _link(path.with_name(name).resolve(), Path(folder) / Path(name).name)
        onnx.save(model, str(Path(folder) / path.name))
        return core.read_model(str(Path(folder) / path.name))


def _link(source: Path, target: Path) -> None:
    """A hard link (OpenVINO refuses symbolic ones that leave the folder), or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fix_shape(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> None:
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, shape, strict=True):
        if dimension.HasField("dim_value") and dimension.dim_value != size:
            expected = [entry.dim_value or entry.dim_param for entry in dimensions]
            raise UserError(f"{name}: input of shape {list(shape)}", f"expected {expected}")
        dimension.dim_value = size
    del model.graph.value_info[:]
    for output in model.graph.output:
        for axis in (2, 3):
            output.type.tensor_type.shape.dim[axis].Clear()
