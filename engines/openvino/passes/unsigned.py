"""Unsigned codes, which CPU kernels take, where signed ones cost something or go wrong.

A shift by whole codes (anchored, export/calibrate/learn.py) is taken back:

    before: x → (Pad 0) → (Mul 1/s) → Add −a·Δ → (Clip) → Q int8 → DQ → Conv
    after:  x → (Mul 1/s) → (Clip) → Q uint8, zero point 128 − a → DQ → Conv, padded by as much

1. codes grow by 128, what they stand for by a·Δ;
2. so zero padding is 0 again: the convolution's own, and nothing is padded in float;
3. a·Δ times the sum of a row's rounded weights leaves the convolution's bias.

Sums are the same but for float rounding. Ports that feed anything but INT8 convolutions keep their shift.

Ports behind a Concat, through what is done pixel by pixel (`POINTWISE`), get unsigned codes as well: 128 is the
zero point of the same values. OpenVINO 2026.4.1 works with unsigned codes of its own there and forgets their zero
point: results of int8 codes are off by 40 to 100 %, without a message (tests/engines/test_wrong_kernels.py sweeps
structures). Elsewhere signed codes are right, and 4 to 7 % faster on a CPU with AVX2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from passionsr_trt.engines.graph.rewriting import Graph, pads_of

NEAR = 1e-3  # of a code, from float rounding of δ/s
HALF = 128
POINTWISE = ("Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Clip")


@dataclass
class Anchored:
    """A port that is shifted by a whole number of codes, and the nodes that do it."""

    codes: int  # a
    step: np.ndarray  # Δ
    quantize: onnx.NodeProto
    dequantize: onnx.NodeProto
    convolutions: list[onnx.NodeProto]
    add: onnx.NodeProto
    source: str  # what the Add shifts
    clip: onnx.NodeProto | None = None
    pads: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    pad: onnx.NodeProto | None = None
    scaling: onnx.NodeProto | None = None


def shifts_as_unsigned_codes(model: onnx.ModelProto, path: Path) -> int:
    """Rewrite every anchored port of a graph in place; returns how many. path: the graph's file."""
    graph = Graph(model, path.parent)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    found = [port for node in model.graph.node if (port := _anchored(graph, node)) is not None]
    for port in found:
        _rewrite(graph, port)
        replaced[port.add.output[0]] = []
        if port.pad is not None:
            replaced[port.pad.output[0]] = []
    if found:
        graph.replace(replaced)
        graph.forget_unused()
    return len(found)


def signed_as_unsigned_codes(model: onnx.ModelProto) -> int:
    """Rewrite every port of int8 codes behind a Concat in place, if INT8 convolutions alone read it; how many."""
    graph = Graph(model)
    done = 0
    for quantize in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        zero = graph.value(quantize.input[2]) if len(quantize.input) == 3 else None
        dequantize = graph.only_consumer(quantize.output[0], "DequantizeLinear")
        if zero is None or zero.dtype != np.int8 or zero.size != 1 or dequantize is None:
            continue
        readers = graph.consumers[dequantize.output[0]]
        if not _behind_concat(graph, quantize) or not all(_is_int8_convolution(graph, node) for node in readers):
            continue
        unsigned = graph.constant(f"zero {int(zero)} of unsigned codes", np.array(HALF + int(zero), np.uint8))
        quantize.input[2] = dequantize.input[2] = unsigned
        done += 1
        for value in [value for value in model.graph.value_info if value.name == quantize.output[0]]:
            value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    graph.forget_unused()
    return done


def _behind_concat(graph: Graph, quantize: onnx.NodeProto) -> bool:
    waiting, seen = [quantize.input[0]], set()
    while waiting:
        node = graph.producers.get(waiting.pop())
        if node is None or id(node) in seen:
            continue
        if node.op_type == "Concat":
            return True
        seen.add(id(node))
        if node.op_type in POINTWISE:
            waiting += node.input
    return False


def _anchored(graph: Graph, quantize: onnx.NodeProto) -> Anchored | None:
    """The port that a QuantizeLinear belongs to, where all of it is as above."""
    if quantize.op_type != "QuantizeLinear" or len(quantize.input) != 3:
        return None
    step, zero = (graph.value(name) for name in quantize.input[1:])
    dequantize = graph.only_consumer(quantize.output[0], "DequantizeLinear")
    if step is None or zero is None or step.size != 1 or zero.dtype != np.int8 or zero.any() or dequantize is None:
        return None
    above, clip, lowest = graph.producers.get(quantize.input[0]), None, None
    if above is not None and above.op_type == "Clip":
        clip, above = above, graph.producers.get(above.input[0])
        lowest, *more = (graph.value(name) for name in clip.input[1:])
        if lowest is None or any(value is None for value in more):
            return None
    if above is None or above.op_type != "Add" or len(graph.consumers[above.output[0]]) != 1:
        return None
    values = [graph.value(name) for name in above.input]
    constant = 1 if values[1] is not None else 0
    offset = values[constant]
    if offset is None or values[1 - constant] is not None:
        return None
    shift = -offset.astype(np.float64) / float(step)
    codes = round(float(shift.mean()))
    if not 0 < codes <= HALF or np.abs(shift - codes).max() > NEAR:
        return None
    if lowest is not None and float(lowest) > (NEAR - codes) * float(step):
        return None  # the padding would be clipped
    convolutions = graph.consumers[dequantize.output[0]]
    if not convolutions or not all(_is_int8_convolution(graph, node) for node in convolutions):
        return None
    port = Anchored(codes, step, quantize, dequantize, convolutions, above, above.input[1 - constant], clip)
    _find_pad(graph, port)
    padded_later = port.pad is None and any(any(pads_of(node)) for node in convolutions)
    return None if padded_later else port


def _is_int8_convolution(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Conv":
        return False
    weight = graph.producers.get(node.input[1])
    known = weight is not None and weight.op_type == "DequantizeLinear"
    constants = [*(weight.input[:2] if weight is not None else ()), *node.input[2:]]
    return known and all(name in graph.constants for name in constants)


def _find_pad(graph: Graph, port: Anchored) -> None:
    """The Pad in front of the shift, with a Mul between them or none; without one nothing was padded in float."""
    above = graph.producers.get(port.source)
    scaling = None
    if above is not None and above.op_type == "Mul" and len(graph.consumers[above.output[0]]) == 1:
        inner = [name for name in above.input if graph.value(name) is None]
        if len(inner) == 1:
            scaling, above = above, graph.producers.get(inner[0])
    if above is None or above.op_type != "Pad" or len(graph.consumers[above.output[0]]) != 1:
        return
    pads = graph.value(above.input[1])
    filling = graph.value(above.input[2]) if len(above.input) > 2 and above.input[2] else np.zeros(())
    mode = next((entry.s for entry in above.attribute if entry.name == "mode"), b"constant")
    if pads is None or pads.size != 8 or filling is None or filling.any() or mode != b"constant":
        return
    if pads[[0, 1, 4, 5]].any():
        return
    port.pad, port.scaling, port.pads = above, scaling, pads[[2, 3, 6, 7]].tolist()


def _rewrite(graph: Graph, port: Anchored) -> None:
    name, moved = port.quantize.name, port.codes * float(port.step)
    source = port.source
    if port.pad is not None:
        if port.scaling is None:
            source = port.pad.input[0]
        else:
            index = list(port.scaling.input).index(port.pad.output[0])
            port.scaling.input[index] = port.pad.input[0]
    first = port.quantize if port.clip is None else port.clip
    first.input[0] = source
    if port.clip is not None:
        for index, limit in enumerate(port.clip.input[1:], 1):
            value = graph.value(limit)
            assert value is not None
            port.clip.input[index] = graph.constant(f"{name}/unsigned{index}", (value + moved).astype(value.dtype))
    zero = graph.constant(f"{name}/unsigned_zero", np.array(HALF - port.codes, np.uint8))
    port.quantize.input[2] = port.dequantize.input[2] = zero
    for node in port.convolutions:
        _unshift(graph, node, moved)
        total = [own + more for own, more in zip(pads_of(node), port.pads, strict=True)]
        for entry in [entry for entry in node.attribute if entry.name == "pads"]:
            node.attribute.remove(entry)
        node.attribute.append(helper.make_attribute("pads", total))


def _unshift(graph: Graph, node: onnx.NodeProto, moved: float) -> None:
    """Take what the shift gave out of a convolution's bias."""
    weight = graph.producers[node.input[1]]
    codes, scales = (graph.value(name) for name in weight.input[:2])
    assert codes is not None and scales is not None
    sums = codes.astype(np.int64).reshape(len(codes), -1).sum(1) * scales.astype(np.float64)
    bias = graph.value(node.input[2]) if len(node.input) > 2 else np.zeros(len(codes), scales.dtype)
    assert bias is not None
    name = graph.constant(f"{node.name}/unsigned_bias", (bias - moved * sums).astype(bias.dtype))
    del node.input[2:]
    node.input.append(name)
