"""How fast is this CPU's INT8? Measured, as its exactness is (compile.py): two layers in float32 and in INT8.

It depends on more than the instruction set: without VNNI convolutions still gain, products of tokens may not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.formats import HALF_RANGE, SIGNED
from passionsr_trt.engines.openvino.compile import compile_content

if TYPE_CHECKING:  # what runs engines has no onnx-ir
    from passionsr_trt.engines.graph.rewriting import Rewriting

# kind: shapes of the input and of the weight
LAYERS = {
    "convolution": ((1, 64, 96, 96), (64, 64, 3, 3)),
    "linear": ((1, 1024, 320), (320, 320)),
    "wide linear": ((1, 256, 1280), (1280, 1280)),
    "sub-pixel form": ((1, 256, 128, 128), (1024, 256, 2, 2)),
    "few outputs": ((1, 64, 256, 256), (3, 64, 3, 3)),
}
SHOWN = ("convolution", "linear")
ROUNDS = 15
CLEARLY, SLIGHTLY = 1.15, 1.05  # times as fast; the probe itself is off by a few hundredths


def int8_speed() -> dict[str, float]:
    """float32 seconds / INT8 seconds of a `convolution` and a `linear` on all cores, the fastest rounds of each.

    An INT8 layer quantizes its float32 input and gives float32, as in the graphs that are exported.
    """
    return {kind: _speed(kind) for kind in SHOWN}


@cache
def linears_faster_as_convolutions() -> bool:
    """Are INT8 linears clearly faster on this CPU where they are written as 1×1 convolutions (linears.py)?

    Without VNNI OpenVINO's INT8 matrix product is no faster than its float one, and its 1×1 convolution is.
    """
    from passionsr_trt.engines.openvino.passes.linears import LinearsAsConvolutions

    return _gain("wide linear", LinearsAsConvolutions()) > CLEARLY


@cache
def phases_faster_apart() -> bool:
    """Are INT8 convolutions in sub-pixel form faster on this CPU as one per phase (phases.py)?

    Where the result is more than a cache holds: below that both are as fast, on a CPU with VNNI at least.
    """
    from passionsr_trt.engines.openvino.passes.phases import PhasesApart

    return _gain("sub-pixel form", PhasesApart()) > SLIGHTLY


@cache
def pixels_faster_in_blocks() -> bool:
    """Is a float convolution with few outputs clearly faster on this CPU two by two pixels at once (blocks.py)?"""
    from passionsr_trt.engines.openvino.passes.blocks import PixelsInBlocks

    return _gain("few outputs", PixelsInBlocks("convolved"), int8=False) > CLEARLY


def _gain(kind: str, rewriting: Rewriting[Any], int8: bool = True) -> float:
    """How many times as fast a layer is rewritten, on one thread, which waits for no other."""
    import onnx_ir as ir

    shape = LAYERS[kind][0]
    model = onnx.load_from_string(layer_model(kind, int8))
    rewritten = ir.to_proto(rewriting(ir.from_proto(model)).model)
    return _ratio(_compiled(model, shape, threads=1), _compiled(rewritten, shape, threads=1))


def _speed(kind: str) -> float:
    shape = LAYERS[kind][0]
    return _ratio(*(_compiled(onnx.load_from_string(layer_model(kind, int8)), shape) for int8 in (False, True)))


def _ratio(*runs: Callable[[], object]) -> float:
    """Seconds of the first over the second's, the fastest of rounds in turn: a busy machine only adds to them."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for run, measured in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            measured.append(time.perf_counter() - start)
    return min(seconds[0]) / min(seconds[1])


def _compiled(model: onnx.ModelProto, shape: tuple[int, ...], threads: int = 0) -> Callable[[], object]:
    """The layer, compiled and run once; threads: 0 for all."""
    request = compile_content(model.SerializeToString(), threads).create_infer_request()
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    request.infer([x])
    return lambda: request.infer([x], share_inputs=True)


def layer_model(kind: str, int8: bool) -> bytes:
    """ONNX of one layer; INT8 as Q/DQ on its input and DQ on its weight codes, one scale per output channel."""
    shape, weight_shape = LAYERS[kind]
    nodes, tensors = _coded_weights(weight_shape) if int8 else _float_weights(weight_shape)
    inputs = ["x_again" if int8 else "x", "weight"]
    if len(weight_shape) == 4:
        size = weight_shape[2:]
        nodes.append(helper.make_node("Conv", inputs, ["convolved"], "site", pads=[1] * 4, kernel_shape=size))
        if size == (2, 2):
            tensors |= {"first": np.array([1, 1]), "last": np.array([-1, -1]), "axes": np.array([2, 3])}
            nodes += [
                helper.make_node("DepthToSpace", ["convolved"], ["shuffled"], blocksize=2, mode="DCR"),
                helper.make_node("Slice", ["shuffled", "first", "last", "axes"], ["enlarged"]),
            ]
        # the mean stands for a next layer: nothing is laid out anew for the caller
        nodes.append(helper.make_node("GlobalAveragePool", nodes[-1].output, ["out"]))
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


Weights = tuple[list[NodeProto], dict[str, np.ndarray]]  # nodes up to `weight`, and their constants


def _codes(shape: tuple[int, ...]) -> np.ndarray:
    """Weight codes that every CPU multiplies exactly."""
    return np.random.default_rng(0).integers(*HALF_RANGE, shape, np.int8, endpoint=True)


def _float_weights(shape: tuple[int, ...]) -> Weights:
    return [], {"weight": _codes(shape).astype(np.float32) / HALF_RANGE.high}


def _coded_weights(shape: tuple[int, ...]) -> Weights:
    channels, axis = (shape[0], 0) if len(shape) == 4 else (shape[-1], 1)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "scale", "zero"], ["x_again"]),
        helper.make_node("DequantizeLinear", ["codes", "weight_scale", "weight_zero"], ["weight"], axis=axis),
    ]
    return nodes, {
        "scale": np.array(1 / SIGNED.high, np.float32),
        "zero": np.array(0, np.int8),
        "codes": _codes(shape),
        "weight_scale": np.full(channels, 1 / HALF_RANGE.high, np.float32),
        "weight_zero": np.zeros(channels, np.int8),
    }
