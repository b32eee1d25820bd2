"""float32 islands in a half-precision graph: around every tensor that comes near half precision's end.

    before: a → x → b → y          all Half, and x reaches far
    after:  Cast → a → x → b → Cast → y, where a and b compute in float32

1. The nodes of an island are those that give or read such a tensor. Constants and what makes constants are none.
2. Their half-precision inputs become float32: a constant, the output of another node of an island, what a
   DequantizeLinear gives by a float32 scale, so that it stays at its Conv or MatMul, else what a Cast makes of it.
3. What they give is float32, and a Cast brings it back for readers that are in no island.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from passionsr_trt.engines.graph.rewriting import Rewriting, again, array, constant, inputs_of, make

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
MAKES_CONSTANTS = ("Constant", "ConstantOfShape")


class Float32Islands(Rewriting[ir.Node]):
    """Around the tensors of these names."""

    def __init__(self, tensors: Collection[str], types: Mapping[str, int]) -> None:
        """types: of all tensors of the graph (onnx.TensorProto.DataType)."""
        self.tensors, self.types = set(tensors), types
        self.within = set[str]()  # outputs of the islands' nodes

    def find(self, graph: ir.Graph) -> Iterator[ir.Node]:
        if not self.within:
            self._begin(graph)
        for node in graph:
            if self._is_within(node) and any(_is_half(value) for value in (*node.inputs, *node.outputs)):
                yield node

    def _begin(self, graph: ir.Graph) -> None:
        for node in graph:
            for value in (*node.inputs, *node.outputs):
                if value is not None and value.name and value.name in self.types:
                    value.dtype = ir.DataType(self.types[value.name])
            touched = {value.name for value in (*node.inputs, *node.outputs) if value is not None}
            if touched & self.tensors and node.op_type not in MAKES_CONSTANTS:
                self.within |= {value.name or "" for value in node.outputs}

    def _is_within(self, node: ir.Node) -> bool:
        return node.outputs[0].name in self.within

    def rewrite(self, graph: ir.Graph, match: ir.Node) -> None:
        for index, value in enumerate(match.inputs):
            if value is not None and _is_half(value):
                match.replace_input_with(index, _widened(graph, value))
        if match.op_type == "Cast" and match.attributes["to"].as_int() == HALF:
            match.attributes["to"] = ir.AttrInt64("to", FLOAT)
        for value in match.outputs:
            if not _is_half(value):
                continue
            value.dtype = FLOAT
            readers = [use for use in value.uses() if not self._is_within(use.node)]
            if readers:
                narrow = make("Cast", [value], f"{value.name}/half", to=HALF)
                narrow.outputs[0].dtype = HALF
                graph.insert_after(match, narrow)
                for node, index in readers:
                    node.replace_input_with(index, narrow.outputs[0])


def _is_half(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == HALF


def _widened(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The same in float32, made once."""
    name, known = f"{value.name}/float32", array(value)
    if known is not None:
        wide = constant(graph, name, known.astype(np.float32))
        wide.dtype = FLOAT
        return wide
    node = value.producer()
    assert node is not None, "a graph's inputs are float32"
    for use in value.uses():
        if use.node.outputs[0].name == name:
            return use.node.outputs[0]
    if node.op_type == "DequantizeLinear":
        codes, scale, *zero = inputs_of(node)
        twin = next((use.node for use in codes.uses() if use.node.outputs[0].name == name), None)
        if twin is not None:
            return twin.outputs[0]
        made = again(node, [codes, _widened(graph, scale), *zero], name)
    else:
        made = make("Cast", [value], name, to=FLOAT)
    made.outputs[0].dtype = FLOAT
    graph.insert_after(node, made)
    return made.outputs[0]
