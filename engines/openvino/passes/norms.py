"""Group norms with channels where they lie: OpenVINO's CPU kernels keep them last around INT8 convolutions.

    before: x [N, C, H, W] → Reshape [N, G, −1] → InstanceNormalization → Reshape [N, C, H, W]
    after:  (x − μ)·σ⁻¹

Flattened to one axis, a group's channels are moved to the front and, quantized, back.

1. Means of x and x² are taken of each channel, x² by its length in each column.
2. Those of a group's channels are put together; σ² = E[x²] − μ² + ε.
3. Of each group they are spread over its channels again.

With columns summed before rows σ² is 2·10⁻⁴ off where |μ| = 10 σ: enough in float32, not in bfloat16. Norms of
another type, and those with a scale or shift of their own, are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from passionsr_trt.engines.graph.rewriting import (
    Rewriting,
    array,
    constant,
    giver,
    inputs_of,
    make,
    maker,
    nodes_of,
    only_reader,
    readers_of,
    replace,
)


class NormsByChannel(Rewriting[ir.Node]):
    """Every float32 group norm, by its InstanceNormalization."""

    def find(self, graph: ir.Graph) -> Iterator[ir.Node]:
        return filter(_is_group_norm, nodes_of(graph, "InstanceNormalization"))

    def rewrite(self, graph: ir.Graph, match: ir.Node) -> None:
        restore = readers_of(match.outputs[0])[0]
        nodes = _by_channel(graph, match, *inputs_of(maker(inputs_of(match)[0])))
        graph.insert_before(restore, nodes)
        replace(restore.outputs[0], nodes[-1].outputs[0])


def _is_group_norm(norm: ir.Node) -> bool:
    flatten, restore = giver(norm.inputs[0], "Reshape"), only_reader(norm.outputs[0], "Reshape")
    if flatten is None or restore is None or only_reader(flatten.outputs[0], norm.op_type) is None:
        return False
    shape, scale, shift = (array(value) for value in (flatten.inputs[1], *norm.inputs[1:]))
    if shape is None or scale is None or shift is None or scale.dtype != np.float32:
        return False
    return list(shape) == [0, len(scale), -1] and not (scale != 1).any() and not shift.any()


def _by_channel(graph: ir.Graph, norm: ir.Node, x: ir.Value, groups: ir.Value) -> list[ir.Node]:
    """x [N, C, H, W]; `groups`: the shape [0, G, −1]."""
    nodes: list[ir.Node] = []
    epsilon = norm.attributes.get_float("epsilon", 1e-5)

    def node(kind: str, inputs: list[ir.Value], result: str, **attributes: Any) -> ir.Value:
        nodes.append(make(kind, inputs, f"{norm.name}/{result}", **attributes))
        return nodes[-1].outputs[0]

    def number(key: str, value: object) -> ir.Value:
        return constant(graph, f"by_channel/{key}", np.asarray(value))

    rows, columns = number("rows", [2]), number("columns", [3])
    mean = node("ReduceMean", [x, number("pixels", [2, 3])], "mean", keepdims=1)
    length = node("ReduceL2", [x, columns], "length", keepdims=1)
    squares = node(
        "ReduceMean", [node("Mul", [length, length], "length_squared"), rows], "row_squares", keepdims=1
    )
    width = node("Cast", [node("Shape", [x], "width", start=3, end=4)], "columns", to=ir.DataType.FLOAT)
    square = node("Div", [squares, width], "square")
    means = node("Reshape", [mean, groups], "means")
    group_mean = node("ReduceMean", [means, rows], "group_mean", keepdims=1)
    group_square = node(
        "ReduceMean", [node("Reshape", [square, groups], "squares"), rows], "group_square", keepdims=1
    )
    difference = node("Sub", [group_square, node("Mul", [group_mean, group_mean], "mean_squared")], "difference")
    variance = node("Max", [difference, number("zero", np.float32(0))], "variance")
    above_zero = node("Add", [variance, number(f"epsilon {epsilon}", np.float32(epsilon))], "above_zero")
    inverse = node("Reciprocal", [node("Sqrt", [above_zero], "deviation")], "inverse")
    shape, channels = node("Shape", [means], "of_channels"), number("channels", [0, -1, 1, 1])

    def spread(value: ir.Value, result: str) -> ir.Value:
        return node("Reshape", [node("Expand", [value, shape], f"{result}s"), channels], f"{result}_of_channel")

    centred = node("Sub", [x, spread(group_mean, "group_mean")], "centred")
    node("Mul", [centred, spread(inverse, "inverse")], "normal")
    return nodes
