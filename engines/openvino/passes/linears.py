"""INT8 linears on tokens as 1×1 convolutions, for CPUs whose INT8 matrix product is no faster than the float one.

    before: x [B, N, K] → Q → DQ → MatMul [K, O] (→ Add)
    after:  x [B, N, K] → Reshape [B, N, 1, K] → Transpose [B, K, N, 1] → Q → DQ → Conv [O, K, 1, 1]
                        → Transpose [B, N, 1, O] → Reshape [B, N, O]

1. A port's Q and DQ are laid out anew once for all linears that it feeds; where it feeds others, beside the old.
2. Weight codes change places, [K, O] → [O, K, 1, 1], in their file where they lie outside the graph; scales stay.
3. A bias that is added right behind goes into the convolution.
4. Where tokens become channels again, [B, N, O] → Transpose → [B, O, N], as in front of a picture, the
   convolution's channels are taken as they are: OpenVINO 2026.4.1 gives wrong numbers, 140 % off, for its
   transposition back and another one behind.

OpenVINO keeps a convolution's channels last, as tokens lie already, so that the new reshapes cost nothing. Sums of
codes are the same integers; results differ by float rounding behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from passionsr_trt.engines.graph.external import write_tensor
from passionsr_trt.engines.graph.rewriting import Graph

TOKENS, BACK = "linears/tokens", "linears/back"


def linears_as_convolutions(model: onnx.ModelProto, path: Path) -> int:
    """Rewrite every INT8 linear on three-dimensional tokens in place; returns how many. path: the graph's file."""
    graph = Graph(model, path.parent)
    known = (*model.graph.input, *model.graph.value_info)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in known}
    found: dict[str, list[onnx.NodeProto]] = {}  # the port's DequantizeLinear → linears
    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        port, weight = (graph.producers.get(name) for name in node.input)
        if weight is None or port is None or not weight.op_type == port.op_type == "DequantizeLinear":
            continue
        quantize = graph.producers.get(port.input[0])
        codes = graph.constants.get(weight.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear" or codes is None or len(codes.dims) != 2:
            continue
        if ranks.get(quantize.input[0]) == 3 and codes.data_type == onnx.TensorProto.INT8:
            found.setdefault(port.output[0], []).append(node)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for name, linears in found.items():
        port = graph.producers[name]
        quantize = graph.producers[port.input[0]]
        alone = len(graph.consumers[name]) == len(linears) and len(graph.consumers[port.input[0]]) == 1
        new = list(_port(graph, quantize, port, alone))
        if alone:
            replaced[quantize.output[0]], replaced[name] = [], new
        else:
            replaced[name] = [port, *new]
        for node in linears:
            replaced |= _linear(graph, node, new[-1].output[0], path)
    graph.replace(replaced)
    return sum(map(len, found.values()))


def _port(graph: Graph, quantize: onnx.NodeProto, port: onnx.NodeProto, alone: bool) -> Iterator[onnx.NodeProto]:
    """Q and DQ on tokens as [B, K, N, 1]; they keep their names where the old ones go."""
    tokens = graph.constant(TOKENS, np.array([0, 0, 1, -1]))
    name, last = port.output[0], "" if alone else "/as_convolution"
    yield helper.make_node("Reshape", [quantize.input[0], tokens], [f"{name}/rows"], name=f"{name}/rows")
    yield helper.make_node("Transpose", [f"{name}/rows"], [f"{name}/laid"], name=f"{name}/laid", perm=[0, 3, 1, 2])
    for kind, old, source, result in (
        ("QuantizeLinear", quantize, f"{name}/laid", f"{name}/codes"),
        ("DequantizeLinear", port, f"{name}/codes", f"{name}/channels"),
    ):
        yield helper.make_node(kind, [source, *old.input[1:]], [result], name=f"{old.name}{last}")


def _linear(graph: Graph, node: onnx.NodeProto, x: str, path: Path) -> dict[str, list[onnx.NodeProto]]:
    """What stands in the places of a linear and of the bias behind it, by their outputs."""
    weight = graph.producers[node.input[1]]
    codes = graph.value(weight.input[0])
    assert codes is not None
    write_tensor(graph.constants[weight.input[0]], codes.T[:, :, None, None], path.parent)
    del weight.attribute[:]
    weight.attribute.append(helper.make_attribute("axis", 0))
    result, bias = node.output[0], None
    add = graph.only_consumer(result, "Add")
    if add is not None:
        (other,) = (name for name in add.input if name != result)
        value = graph.value(other)
        bias = other if value is not None and value.ndim == 1 else None
    target = add.output[0] if add is not None and bias is not None else result
    inputs = [x, node.input[1], *([bias] if bias is not None else [])]
    convolution = helper.make_node("Conv", inputs, [f"{result}/channels"], name=node.name, kernel_shape=[1, 1])
    channels, rows, back = f"{result}/channels", f"{result}/rows", graph.constant(BACK, np.array([0, 0, -1]))
    replaced: dict[str, list[onnx.NodeProto]] = {result: []}
    again = graph.only_consumer(target, "Transpose")
    if again is not None and [*again.attribute[0].ints] == [0, 2, 1]:
        last = again.output[0]
        replaced |= {
            target: [],
            last: [convolution, helper.make_node("Reshape", [channels, back], [last], f"{result}/short")],
        }
        return replaced
    return replaced | {
        target: [
            convolution,
            helper.make_node("Transpose", [channels], [rows], rows, perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [rows, back], [target], name=f"{result}/tokens"),
        ]
    }
