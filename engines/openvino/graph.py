"""What a graph is rewritten to for OpenVINO's CPU kernels, which keep channels last around INT8 convolutions.

1. Group norm. Its usual form flattens a group's channels and pixels into one axis, for which OpenVINO moves
   channels to the front and, quantized, back. Here the means of x and x² of each channel are taken where the
   channels lie and put together by groups; x becomes (x − μ)·σ⁻¹. σ² = E[x²] − μ² with columns summed before rows
   is 2·10⁻⁴ off where |μ| = 10 σ: enough in float32, not in bfloat16.
2. A nearest enlargement in front of a quantizer: the codes are enlarged instead, a quarter of the work and bytes.
3. Attention takes bfloat16 where a CPU has it and the engine is INT8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper
from passionsr_trt.engines.graph.rewriting import Graph

WIDE_HEAD = 256  # channels
REVISION = 8  # to be raised where the graphs below change: engines of another revision are rebuilt


def norms_by_channel(model: onnx.ModelProto) -> int:
    """Rewrite every float32 group norm in place; returns how many that were."""
    graph = Graph(model)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for norm in [node for node in model.graph.node if node.op_type == "InstanceNormalization"]:
        flatten = graph.producers.get(norm.input[0])
        restore = graph.only_consumer(norm.output[0], "Reshape")
        if flatten is None or flatten.op_type != "Reshape" or restore is None:
            continue
        if graph.only_consumer(flatten.output[0], norm.op_type) is None:
            continue
        shape, scale, shift = (graph.value(name) for name in (flatten.input[1], *norm.input[1:]))
        if shape is None or list(shape) != [0, len(scale) if scale is not None else 0, -1]:
            continue
        if scale is None or shift is None or scale.dtype != np.float32 or (scale != 1).any() or shift.any():
            continue
        epsilon = next((entry.f for entry in norm.attribute if entry.name == "epsilon"), 1e-5)
        nodes = list(_by_channel(graph, norm.name, flatten.input[0], flatten.input[1], restore.output[0], epsilon))
        replaced[restore.output[0]] = nodes
        replaced[flatten.output[0]] = replaced[norm.output[0]] = []
    graph.replace(replaced)
    return len(replaced) // 3


def _by_channel(
    graph: Graph, name: str, x: str, groups: str, output: str, epsilon: float
) -> Iterator[onnx.NodeProto]:
    """(x − μ)/√(σ² + ε), μ and σ² of each group: x [N,C,H,W]; `groups` names the shape [0, G, −1]."""

    def node(kind: str, inputs: list[str], result: str, **more: Any) -> onnx.NodeProto:
        names = [entry if entry in shared else f"{name}/{entry}" for entry in inputs]
        target = result if result == output else f"{name}/{result}"
        return helper.make_node(kind, names, [target], name=f"{name}/{result}", **more)

    numbers = {
        "by_channel/pixels": np.array([2, 3]),
        "by_channel/rows": np.array([2]),
        "by_channel/columns": np.array([3]),
        "by_channel/channels": np.array([0, -1, 1, 1]),
        "by_channel/zero": np.float32(0),
        f"by_channel/epsilon {epsilon}": np.float32(epsilon),
    }
    for key, value in numbers.items():
        graph.constant(key, np.asarray(value))
    shared = {*numbers, x, groups, output}
    yield node("ReduceMean", [x, "by_channel/pixels"], "mean", keepdims=1)
    yield node("ReduceL2", [x, "by_channel/columns"], "length", keepdims=1)
    yield node("Mul", ["length", "length"], "length_squared")
    yield node("ReduceMean", ["length_squared", "by_channel/rows"], "row_squares", keepdims=1)
    yield node("Shape", [x], "width", start=3, end=4)
    yield node("Cast", ["width"], "columns", to=onnx.TensorProto.FLOAT)
    yield node("Div", ["row_squares", "columns"], "square")
    for moment in ("mean", "square"):
        yield node("Reshape", [moment, groups], f"{moment}s")
        yield node("ReduceMean", [f"{moment}s", "by_channel/rows"], f"group_{moment}", keepdims=1)
    yield node("Mul", ["group_mean", "group_mean"], "mean_squared")
    yield node("Sub", ["group_square", "mean_squared"], "difference")
    yield node("Max", ["difference", "by_channel/zero"], "variance")
    yield node("Add", ["variance", f"by_channel/epsilon {epsilon}"], "above_zero")
    yield node("Sqrt", ["above_zero"], "deviation")
    yield node("Reciprocal", ["deviation"], "inverse")
    yield node("Shape", ["means"], "of_channels")
    for kind in ("group_mean", "inverse"):
        yield node("Expand", [kind, "of_channels"], f"{kind}s")
        yield node("Reshape", [f"{kind}s", "by_channel/channels"], f"{kind}_of_channel")
    yield node("Sub", [x, "group_mean_of_channel"], "centred")
    yield node("Mul", ["centred", "inverse_of_channel"], output)


def codes_before_enlargement(model: onnx.ModelProto) -> int:
    """Resize → Q → DQ becomes Q → Resize → DQ where nearest pixels are taken; returns how often."""
    graph = Graph(model)
    changed = 0
    for resize in [node for node in model.graph.node if node.op_type == "Resize"]:
        mode = next((entry.s for entry in resize.attribute if entry.name == "mode"), b"nearest")
        quantize = graph.only_consumer(resize.output[0], "QuantizeLinear")
        if mode != b"nearest" or quantize is None or graph.value(quantize.input[1]) is None:
            continue
        first, second = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(quantize)
        second.CopyFrom(resize)
        codes = quantize.output[0]
        first.input[0], second.output[0] = resize.input[0], codes
        first.output[0] = second.input[0] = f"{codes}/small"
        resize.CopyFrom(first)  # they change places
        quantize.CopyFrom(second)
        changed += 1
    return changed


def attention_in_bfloat16(model: onnx.ModelProto) -> int:
    """Queries, keys and values in bfloat16, the result in float32 again; returns for how many softmaxes.

    Narrow heads stay one kernel, which keeps the scores in float32: twice as fast, 2 % off where scores spread by
    8 (tested). It reads all keys and values again for a few queries, and wide ones do not fit its cache. So values
    of a wide head (`WIDE_HEAD`) are halved: OpenVINO does not fuse what two products read, and its plain products
    run at full rate. On 9,240 tokens of 512 channels that takes 0.4 of the time; scores are rounded as well then.
    Left alone are narrow heads whose queries go through in pieces.
    """
    graph = Graph(model)
    read_keys = Counter(node.input[1] for node in model.graph.node if node.op_type == "MatMul")
    shapes = ((value.name, value.type.tensor_type.shape.dim) for value in model.graph.value_info)
    widths = {name: sides[-1].dim_value for name, sides in shapes if sides}
    replaced: dict[str, list[onnx.NodeProto]] = {}
    made: set[str] = set()

    def behind(name: str, node: onnx.NodeProto) -> None:
        """Once, right behind the node that gives `name`."""
        if node.output[0] not in made:
            made.add(node.output[0])
            source = graph.producers[name]
            replaced.setdefault(source.output[0], [source]).append(node)

    def half(name: str) -> str:
        result = f"{name}/bfloat16"
        behind(name, helper.make_node("Cast", [name], [result], result, to=onnx.TensorProto.BFLOAT16))
        return result

    found = 0
    for softmax in [node for node in model.graph.node if node.op_type == "Softmax"]:
        scores, mix = graph.producers.get(softmax.input[0]), graph.only_consumer(softmax.output[0], "MatMul")
        if scores is None or scores.op_type != "MatMul" or mix is None or mix.input[0] != softmax.output[0]:
            continue
        values, result = mix.input[1], mix.output[0]
        wide = widths.get(values, 0) >= WIDE_HEAD
        if graph.only_consumer(scores.output[0], "Softmax") is None:
            continue
        if not {*scores.input, values} <= graph.producers.keys() or (read_keys[scores.input[1]] > 1 and not wide):
            continue
        for index in range(2):
            scores.input[index] = half(scores.input[index])
        mixed = f"{result}/bfloat16"
        if wide:
            halves, parts = ([f"{name}/{index}" for index in range(2)] for name in (half(values), mixed))
            behind(values, helper.make_node("Split", [half(values)], halves, halves[0], axis=-1, num_outputs=2))
            nodes = [
                helper.make_node("MatMul", [softmax.output[0], value], [part], part)
                for value, part in zip(halves, parts, strict=True)
            ]
            nodes.append(helper.make_node("Concat", parts, [mixed], mixed, axis=-1))
        else:
            mix.input[1], mix.output[0] = half(values), mixed
            nodes = [mix]
        nodes.append(helper.make_node("Cast", [mixed], [result], result, to=onnx.TensorProto.FLOAT))
        replaced[mix.output[0]] = nodes  # by its new name
        found += 1
    graph.replace(replaced)
    return found
