"""An ONNX graph as its rewriting sees it: who makes and who takes a tensor, and constants by value."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from passionsr_trt.engines.graph.external import read_tensor


def pads_of(node: onnx.NodeProto) -> list[int]:
    """A convolution's: top, left, bottom, right."""
    return next((list(entry.ints) for entry in node.attribute if entry.name == "pads"), [0, 0, 0, 0])


class Graph:
    """Producers and consumers of a graph's tensors, and its constants. They are those of when it was made."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        """folder: where weights outside the graph lie; without it they count as unknown."""
        self.model, self.graph, self.folder = model, model.graph, folder
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.named = {node.name: node for node in reversed(model.graph.node)}  # the first of a name
        self.producers = {output: node for node in model.graph.node for output in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.consumers[name].append(node)

    def value(self, name: str) -> np.ndarray | None:
        """A constant, None where it is none or lies outside the graph and nobody said where."""
        tensor = self.constants.get(name)
        if tensor is None or (tensor.external_data and self.folder is None):
            return None
        return read_tensor(tensor, self.folder or Path())

    def constant(self, name: str, value: np.ndarray) -> str:
        """Its name, added once."""
        if name not in self.constants:
            self.add(numpy_helper.from_array(value, name))
        return name

    def add(self, tensor: onnx.TensorProto) -> str:
        """Another constant; its name."""
        self.constants[tensor.name] = tensor
        self.graph.initializer.append(tensor)
        return tensor.name

    def forget_unused(self) -> None:
        """Take out constants that no node reads any more."""
        used = {name for node in self.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def replace(self, replaced: dict[str, list[onnx.NodeProto]]) -> None:
        """Put nodes in the place of the one that gives a tensor, by that tensor's name."""
        nodes = [new for node in self.graph.node for new in replaced.get(node.output[0], [node])]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def only_consumer(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node that alone takes a tensor, where it is of this kind."""
        found = self.consumers[name]
        return found[0] if len(found) == 1 and found[0].op_type == kind else None
