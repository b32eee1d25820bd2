"""A convolution in sub-pixel form (export/model/sub_pixel.py) as one convolution a phase.

    before: x → Conv [4O, C, 2, 2], pads 1 → DepthToSpace(2, DCR) → one pixel off every side
    after:  x → four Conv [O, C, 2, 2], each padded on the two sides that its phase reads → Concat → DepthToSpace

Every phase has as many rows and columns as x, a quarter of the weights to keep in a cache, and no border that is
computed and cut off; the sums are the same. Whether it is faster a probe says (cpu_speed.py). Convolutions whose
port pads, which a shift makes them do, stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import helper
from passionsr_trt.engines.graph.external import rows_of
from passionsr_trt.engines.graph.rewriting import Graph

# of odd-odd, odd-even, even-odd, even-even rows of the weight; odd phases read one pixel further right or down
PADS = ((0, 0, 1, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 1, 0, 0))


def phases_apart(model: onnx.ModelProto, path: Path) -> int:
    """Rewrite every padded convolution in sub-pixel form in place; returns how many. path: the graph's file."""
    graph = Graph(model, path.parent)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    done = 0
    for shuffle in [node for node in model.graph.node if node.op_type == "DepthToSpace"]:
        conv, crops = graph.producers.get(shuffle.input[0]), list(_crops(graph, shuffle.output[0]))
        if conv is None or not crops or not _in_sub_pixel_form(graph, conv, shuffle):
            continue
        nodes: list[onnx.NodeProto] = []
        for index, pads in enumerate(PADS):
            inputs = [conv.input[0], *(_phase(graph, name, index, nodes) for name in conv.input[1:])]
            result = f"{conv.name}/phase{index}"
            nodes.append(helper.make_node("Conv", inputs, [result], result, pads=pads, kernel_shape=[2, 2]))
        joined, last = f"{conv.name}/phases", crops[-1].output[0]
        results = [
            f"{conv.name}/phase{index}" for index in reversed(range(len(PADS)))
        ]  # even-even comes first now
        nodes.append(helper.make_node("Concat", results, [joined], joined, axis=1))
        nodes.append(helper.make_node("DepthToSpace", [joined], [last], shuffle.name, blocksize=2, mode="DCR"))
        replaced |= {conv.output[0]: nodes, shuffle.output[0]: [], **{crop.output[0]: [] for crop in crops}}
        weight = graph.producers.get(conv.input[1])
        if weight is not None:
            replaced[weight.output[0]] = []
        done += 1
    graph.replace(replaced)
    graph.forget_unused()
    return done


def _crops(graph: Graph, name: str) -> Iterator[onnx.NodeProto]:
    """The slices of a tensor one behind another that take one pixel off every side; none where they do not."""
    found: list[onnx.NodeProto] = []
    cut: set[tuple[int, int, int]] = set()
    while (crop := graph.only_consumer(name, "Slice")) is not None:
        values = [value.tolist() for entry in crop.input[1:] if (value := graph.value(entry)) is not None]
        if not 3 <= len(values) == len(crop.input) - 1 or set().union(*values[3:]) - {1}:
            break
        cut |= set(zip(*values[:3], strict=True))
        found.append(crop)
        name = crop.output[0]
        if {axis for _start, _end, axis in cut} >= {2, 3}:
            break
    if cut == {(1, -1, 2), (1, -1, 3)}:
        yield from found


def _in_sub_pixel_form(graph: Graph, conv: onnx.NodeProto, shuffle: onnx.NodeProto) -> bool:
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in (*conv.attribute, *shuffle.attribute)}
    wanted = {"pads": [1] * 4, "kernel_shape": [2, 2], "blocksize": 2, "mode": b"DCR"}
    if conv.op_type != "Conv" or any(attributes.get(key) != value for key, value in wanted.items()):
        return False
    if attributes.get("strides", [1, 1]) != [1, 1] or graph.only_consumer(conv.output[0], "DepthToSpace") is None:
        return False
    weight = graph.producers.get(conv.input[1])
    if weight is None:
        return all(name in graph.constants for name in conv.input[1:])
    alone = graph.only_consumer(weight.output[0], "Conv") is not None
    return weight.op_type == "DequantizeLinear" and alone and all(name in graph.constants for name in weight.input)


def _phase(graph: Graph, name: str, index: int, nodes: list[onnx.NodeProto]) -> str:
    """The rows of one phase of a weight or bias; a DequantizeLinear of them is added to `nodes`."""
    dequantize = graph.producers.get(name)
    if dequantize is None:
        rows = f"{name}/phase{index}"
        return graph.add(rows_of(graph.constants[name], index, len(PADS), rows))
    inputs = [_phase(graph, part, index, nodes) for part in dequantize.input]
    result = f"{dequantize.output[0]}/phase{index}"
    nodes.append(helper.make_node("DequantizeLinear", inputs, [result], f"{dequantize.name}/phase{index}", axis=0))
    return result
