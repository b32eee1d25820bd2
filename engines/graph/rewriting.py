"""A rewriting of an ONNX graph: a pass on onnx-ir that says what it looks for and what it makes of it.

A value knows at every moment which node gives it and which nodes read it. Weights outside the graph stay where
they lie: they are mapped where one is looked at. What runs engines imports none of this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import onnx_ir as ir

LARGE = 100_000_000  # bytes of weights: that many lie beside their graph
Match = TypeVar("Match")


class Rewriting(ir.passes.InPlacePass, Generic[Match]):
    """`find` gives what is to be rewritten, `rewrite` does one of them.

    Afterwards none is left, every node stands behind what it reads, and the graph takes and gives what it did:
    PostconditionError where that is not so. `requires` says what earlier rewritings must have done.
    """

    @abstractmethod
    def find(self, graph: ir.Graph) -> Iterator[Match]:
        """What is to be rewritten, in the graph's order."""

    @abstractmethod
    def rewrite(self, graph: ir.Graph, match: Match) -> None:
        """Rewrite one; nodes and constants that nothing reads any more are taken out afterwards."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        ends = _names(graph.inputs), _names(graph.outputs)
        found = list(self.find(graph))
        for match in found:
            self.rewrite(graph, match)
        if found:
            forget_unused(graph)
        if ends != (_names(graph.inputs), _names(graph.outputs)):
            raise ir.passes.PostconditionError(f"{type(self).__name__}: other inputs or outputs than {ends}")
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        left = next(self.find(model.graph), None)
        if left is not None:
            raise ir.passes.PostconditionError(f"{type(self).__name__}: left {left}")
        given: set[ir.Value] = set()
        for node in model.graph:
            late = [
                value for value in node.inputs if value is not None and value.producer() and value not in given
            ]
            if late:
                raise ir.passes.PostconditionError(f"{type(self).__name__}: {node.name} stands before {late[0]}")
            given |= set(node.outputs)


def _names(values: Sequence[ir.Value]) -> list[str | None]:
    return [value.name for value in values]


def forget_unused(graph: ir.Graph) -> None:
    """Take out nodes and constants whose results nothing reads."""
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def make(
    kind: str, inputs: Sequence[ir.Value | None], result: str, name: str | None = None, **attributes: Any
) -> ir.Node:
    """A node of one result; it is called as that where it has no name of its own."""
    return ir.node(kind, inputs, attributes, name=name or result, outputs=[ir.val(result)])


def again(node: ir.Node, inputs: Sequence[ir.Value | None], result: str, name: str | None = None) -> ir.Node:
    """The same operation on other inputs, of one result; of the same name where it gets no other."""
    attributes = list(node.attributes.values())
    own = name or node.name
    return ir.Node(node.domain, node.op_type, inputs, attributes, name=own, outputs=[ir.val(result)])


def replace(old: ir.Value, new: ir.Value) -> None:
    """Everything that read `old` reads `new`, which takes its name, type and shape."""
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def constant(graph: ir.Graph, name: str, value: np.ndarray) -> ir.Value:
    """The constant of a name, added once. `value` is kept, not copied: it may be a view of mapped weights."""
    if name not in graph.initializers:
        graph.register_initializer(ir.val(name, const_value=ir.tensor(value, name=name)))
    return graph.initializers[name]


def array(value: ir.Value | None) -> Any:
    """A constant's np.ndarray, mapped where it lies outside the graph; None for any other value."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def inputs_of(node: ir.Node) -> list[ir.Value]:
    """What a node reads, which leaves no input out."""
    inputs = [value for value in node.inputs if value is not None]
    assert len(inputs) == len(node.inputs), node
    return inputs


def maker(value: ir.Value) -> ir.Node:
    """The node that gives a value, which is neither a constant nor the graph's input."""
    node = value.producer()
    assert node is not None, value
    return node


def giver(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node that gives a value, where it is of this kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def only_reader(value: ir.Value, kind: str) -> ir.Node | None:
    """The node that alone reads a value, where it is of this kind."""
    readers = readers_of(value)
    alone = len(readers) == 1 and readers[0].op_type == kind and not value.is_graph_output()
    return readers[0] if alone else None


def readers_of(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value; one that reads it twice stands there twice."""
    return [use.node for use in value.uses()]


def pads_of(node: ir.Node) -> list[int]:
    """A convolution's: top, left, bottom, right."""
    return list(node.attributes.get_ints("pads", [0, 0, 0, 0]))


def nodes_of(graph: ir.Graph, kind: str) -> Iterator[ir.Node]:
    """The nodes of one kind, in the graph's order."""
    return (node for node in graph if node.op_type == kind)


def save(model: ir.Model, path: Path, large: int | None = None) -> None:
    """Write a graph as `path`: its weights in it, or in FILE.data beside it from `large` bytes (`LARGE`) on."""
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in weights) >= (LARGE if large is None else large):
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        ir.save(ir.external_data.load_to_model(model), path)
