"""Compile one ONNX part for the CPU at one fixed shape.

OpenVINO reads our ONNX graphs as they are. Shapes are fixed in the graph before it is read, because of two
faults seen in OpenVINO 2026.4.1 that both leave no message:
1. with dynamic H and W, a bias-free convolution whose output feeds both a residual sum and a quantizer
   gives wrong numbers (relative error 0.3 against ONNX Runtime, 0.01 with fixed shapes);
2. `Model.reshape` on a dynamic model leaves most weights' DequantizeLinear unfused: float kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import openvino as ov
from passionsr_trt.engines.cpu import COMPILE_OPTIONS, has_bfloat16, openvino_int8_exact
from passionsr_trt.engines.errors import UserError
from passionsr_trt.engines.graph_files import on_disk, weight_files


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


def compile_static(path: Path, shape: Sequence[int], threads: int = 0, bfloat16: bool = False, **more: Any) -> Any:
    """An ov.CompiledModel of the graph in `path` for one input shape [B, C, H, W]; `more`: OpenVINO properties.

    bfloat16: what is not INT8 may run in it, where the CPU has it.
    """
    options: dict[str, Any] = {**COMPILE_OPTIONS, **more}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    core = ov.Core()
    try:
        model = _read_fixed(core, path, shape)
        if bfloat16 and has_bfloat16():
            with suppress(RuntimeError):  # a CPU that has it, held to an older instruction set
                return core.compile_model(model, "CPU", {**options, "INFERENCE_PRECISION_HINT": "bf16"})
        return core.compile_model(model, "CPU", options)
    except (RuntimeError, ValueError) as error:
        raise failure(f"{path}: OpenVINO cannot load it", error) from error


def failure(what: str, error: Exception) -> UserError:
    """OpenVINO's exception in one line: its last one, the others say where; out of memory is called that."""
    reason = str(error).strip().splitlines()[-1]
    if "alloc" in reason:
        return UserError(f"{what}: out of memory ({reason})", "", "a smaller --tile needs less")
    return UserError(f"{what} ({reason})")


def _read_fixed(core: Any, path: Path, shape: Sequence[int]) -> Any:
    """The ov.Model of the graph with the input's shape set."""
    model = onnx.load(str(path), load_external_data=False)
    _fix_shape(model, path.name, shape)
    if not weight_files(model):
        return core.read_model(model.SerializeToString(), b"")
    with on_disk(model, path) as changed:
        return core.read_model(str(changed))


def _fix_shape(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> None:
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, shape, strict=True):
        if dimension.HasField("dim_value") and dimension.dim_value != size:
            expected = [entry.dim_value or entry.dim_param for entry in dimensions]
            raise UserError(f"{name}: input of shape {list(shape)}", f"expected {expected}")
        dimension.dim_value = size
    del model.graph.value_info[:]
    for output in model.graph.output:
        for axis in (0, 2, 3):
            output.type.tensor_type.shape.dim[axis].Clear()
