"""How fast is this CPU's INT8? Measured, as its exactness is (cpu.py): two layers in float32 and in INT8.

It depends on more than the instruction set: without VNNI convolutions still gain, products of tokens may not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from passionsr_trt.engines.openvino.cpu import COMPILE_OPTIONS

CODE_LIMIT = 63  # weight codes that every CPU multiplies exactly
# kind: shapes of the input and of the weight
LAYERS = {"convolution": ((1, 64, 96, 96), (64, 64, 3, 3)), "linear": ((1, 1024, 320), (320, 320))}
ROUNDS = 25


def int8_speed() -> dict[str, float]:
    """float32 seconds / INT8 seconds of a `convolution` and a `linear` on all cores, medians of rounds in turn.

    An INT8 layer quantizes its float32 input and gives float32, as in the graphs that are exported.
    """
    return {kind: _speed(kind) for kind in LAYERS}


def _speed(kind: str) -> float:
    float_layer, int8_layer = _runner(kind, int8=False), _runner(kind, int8=True)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for int8, run in ((False, float_layer), (True, int8_layer)):
            start = time.perf_counter()
            run()
            seconds[int8].append(time.perf_counter() - start)
    return median(seconds[False]) / median(seconds[True])


def _runner(kind: str, int8: bool) -> Callable[[], object]:
    """The layer, compiled and run once."""
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(layer_model(kind, int8), b""), "CPU", COMPILE_OPTIONS)
    request = compiled.create_infer_request()
    x = np.random.default_rng(0).uniform(-1, 1, LAYERS[kind][0]).astype(np.float32)
    request.infer([x])
    return lambda: request.infer([x], share_inputs=True)


def layer_model(kind: str, int8: bool) -> bytes:
    """ONNX of one layer; INT8 as Q/DQ on its input and DQ on its weight codes, one scale an output channel."""
    shape, weight_shape = LAYERS[kind]
    convolution = kind == "convolution"
    channels, axis = (weight_shape[0], 0) if convolution else (weight_shape[-1], 1)
    codes = np.random.default_rng(0).integers(-CODE_LIMIT, CODE_LIMIT, weight_shape, np.int8, endpoint=True)
    nodes: list[NodeProto] = []
    tensors: dict[str, np.ndarray] = {}
    if int8:
        tensors |= {
            "scale": np.array(1 / 127, np.float32),
            "zero": np.array(0, np.int8),
            "codes": codes,
            "weight_scale": np.full(channels, 1 / CODE_LIMIT, np.float32),
            "weight_zero": np.zeros(channels, np.int8),
        }
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_codes"]),
            helper.make_node("DequantizeLinear", ["x_codes", "scale", "zero"], ["x_again"]),
            helper.make_node("DequantizeLinear", ["codes", "weight_scale", "weight_zero"], ["weight"], axis=axis),
        ]
    else:
        tensors["weight"] = codes.astype(np.float32) / CODE_LIMIT
    inputs = ["x_again" if int8 else "x", "weight"]
    if convolution:
        nodes += [  # the mean stands for a next layer: nothing is laid out anew for the caller
            helper.make_node("Conv", inputs, ["convolved"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["convolved"], ["out"]),
        ]
    else:
        nodes.append(helper.make_node("MatMul", inputs, ["out"]))
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [shape[0], *[None] * (len(shape) - 1)])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
