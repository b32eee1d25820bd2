"""Is this CPU's INT8 exact? Asked of the engine itself, not of a list of instruction sets.

Without VNNI, oneDNN adds pairs of 8-bit products in 16 bits, which saturate when weights use the full
range. A convolution whose exact result is known shows it in milliseconds, whatever made the difference:
an old CPU, a virtual machine that hides VNNI, or ONEDNN_MAX_CPU_ISA.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from onnx import GraphProto, TensorProto, helper, numpy_helper

# float32 where it is not INT8: CPUs with AMX or AVX512-BF16, and ARM, would default to half precision
COMPILE_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def _probe_graph(limit: int) -> GraphProto:
    """A 1×1 QDQ convolution with 64 channels: every input code 127, every weight code `limit`, all scales 1."""
    weight = np.full((16, 64, 1, 1), limit, np.int8)
    initializers = [
        numpy_helper.from_array(np.array(1.0, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(np.ones(16, np.float32), "weight_scale"),
        numpy_helper.from_array(np.zeros(16, np.int8), "weight_zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["y", "w"], ["out"]),
    ]
    return helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 16, 8, 8])],
        initializers,
    )


def compile_content(content: bytes, threads: int = 0) -> Any:
    """An ov.CompiledModel, in float32, of an ONNX graph in memory whose shapes are fixed; threads: 0 for all."""
    import openvino as ov

    core = ov.Core()
    options = {**COMPILE_OPTIONS, "INFERENCE_NUM_THREADS": threads}
    return core.compile_model(core.read_model(content, b""), "CPU", options)


def _result(graph: GraphProto, x: np.ndarray) -> np.ndarray:
    """What OpenVINO's kernels on this CPU make of one input."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    compiled = compile_content(model.SerializeToString())
    result: np.ndarray = compiled([x])[compiled.output(0)]
    return result


@cache
def has_bfloat16() -> bool:
    """True where the CPU computes in bfloat16 (AVX512-BF16, AMX), so that it is faster.

    Where ONEDNN_MAX_CPU_ISA forbids it OpenVINO still lists it among what the CPU can, computes float32, and its
    kernels for the rest have been seen to crash: so a product that bfloat16 rounds is looked at as well.
    """
    import openvino as ov

    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    nodes = [
        helper.make_node("Cast", ["x"], ["rounded"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["rounded", "rounded"], ["product"]),
        helper.make_node("Cast", ["product"], ["out"], to=TensorProto.FLOAT),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 32]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "probe", tensors[:1], tensors[1:])
    x = np.full((32, 32), 1 + 2**-9, np.float32)  # a quarter of the way to its neighbour: bfloat16 makes it 1
    return bool(np.all(_result(graph, x) == 32))


@cache
def openvino_int8_exact(limit: int) -> bool:
    """True where OpenVINO's INT8 kernels on this CPU are exact for weight codes up to ±limit."""
    result = _result(_probe_graph(limit), np.full((1, 64, 8, 8), 127.0, np.float32))
    return bool(np.array_equal(result, np.full_like(result, 127.0 * limit * 64)))
