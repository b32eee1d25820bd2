"""An engine's graph cut into sub-graphs, one a port, that its bundle's graph has the values for.

    codes → DQ → Conv → activation, sums, Concat → Q → DQ → Conv of the site → result
    └ values that codes stand for come in                                     └ is judged

1. The convolutions and products that read one port are judged in one sub-graph, each by the first tensor behind it
   that the bundle's graph has too.
2. Going back from them a node belongs to it where nothing outside reads what it gives, or where the bundle's graph
   does not have what it gives; else what it gives comes in.
3. Behind its port it ends at the next Q. What comes in there is what the codes of the bundle's port stand for: no
   value is near a tie.
4. Integers (shapes) are constants; bfloat16 is left out.

What the whole graph fuses is fused here: no result is added within, no reader is taken away. A fault is seen where
it arises, not behind the sums that hide it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.graph.rewriting import Graph, pads_of

PRODUCTS = ("Conv", "MatMul", "Gemm")
READ_NO_VALUES = ("Shape", "Size")
COMES_IN = "/values"
OPSET = 20


@dataclass(frozen=True)
class Segment:
    """nodes: in the graph's order. results: tensor → the product that it is judged for. inputs: tensors that come
    in; walls: the Q's at which it ends.
    """

    nodes: tuple[onnx.NodeProto, ...]
    results: Mapping[str, onnx.NodeProto]
    inputs: tuple[str, ...]
    walls: tuple[onnx.NodeProto, ...]


def segments(engine: Graph, bundle: Graph) -> Iterator[Segment]:
    """The sub-graphs of the ports of an engine's graph, in its order; bundle: the graph that it was made from."""
    known = {name for node in bundle.graph.node for name in node.output} | {v.name for v in bundle.graph.input}
    ports: dict[str, list[onnx.NodeProto]] = {}
    for node in engine.graph.node:
        if node.op_type in PRODUCTS and quantizer(engine, node.input[0]):
            ports.setdefault(node.input[0], []).append(node)
    for products in ports.values():
        yield _segment(engine, products, known)


def quantizer(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """DQ, what moves codes, Q: the nodes that give a quantized activation, its Q last; none for other tensors."""
    found: list[onnx.NodeProto] = []
    node = graph.producers.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return []
    while node is not None:
        found.append(node)
        if node.op_type == "QuantizeLinear":
            return found
        node = graph.producers.get(node.input[0])
    return []  # codes of a weight


def _segment(graph: Graph, products: list[onnx.NodeProto], known: set[str]) -> Segment:
    inside, walls, results = {id(node) for node in products}, dict[int, onnx.NodeProto](), {}
    outputs, own = {value.name for value in graph.graph.output}, set()
    for product in products:
        waiting = [product.output[0]]
        while waiting:
            if (name := waiting.pop()) in known:
                results[name] = product
                continue
            inside |= {id(reader) for reader in graph.consumers[name]}
            waiting += [given for reader in graph.consumers[name] for given in reader.output]
        own |= {id(node) for entry in product.input[:2] for node in quantizer(graph, entry)}
    inside |= own
    needed = {name for node in graph.graph.node if id(node) in inside for name in node.input}
    for node in reversed(graph.graph.node):
        if id(node) not in inside:
            readers = [r for name in node.output for r in graph.consumers[name] if r.op_type not in READ_NO_VALUES]
            alone = bool(readers) and all(id(r) in inside for r in readers) and not outputs & set(node.output)
            alone = alone and node.op_type not in READ_NO_VALUES and any(id(r) not in walls for r in readers)
            if not (alone or any(name in needed and name not in known for name in node.output)):
                continue
            inside.add(id(node))
        if node.op_type == "QuantizeLinear" and id(node) not in own:
            walls[id(node)] = node
        else:
            needed |= set(node.input)
        if node.op_type in PRODUCTS:  # what gives its codes is copied where others read it too
            inside |= {id(giver) for name in node.input[:2] for giver in quantizer(graph, name)}
        weights = (graph.producers.get(name) for name in node.input)
        inside |= {id(giver) for giver in weights if giver is not None and giver.input[0] in graph.constants}
    nodes = tuple(node for node in graph.graph.node if id(node) in inside)
    given = {name for node in nodes for name in node.output}
    taken = [name for node in nodes if id(node) not in walls for name in node.input if name]
    inputs = tuple(dict.fromkeys(name for name in taken if name not in given and name not in graph.constants))
    return Segment(nodes, results, inputs, tuple(walls.values()))


def port_values(
    engine: Graph, quantize: onnx.NodeProto, bundle: Graph, values: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What an engine's port takes where the bundle's has the codes that `values` holds, float32.

    Unsigned codes are 128 more. A linear that became a convolution takes tokens as [B, K, N, 1], an enlargement
    behind Q takes one code of each it makes, a convolution that pads takes codes without the border.
    """
    original = port_quantizer(bundle, quantize)
    scale, zero = (bundle.value(name) for name in original.input[1:3])
    own_zero = engine.value(quantize.input[2])
    assert scale is not None and zero is not None and own_zero is not None
    codes = values[original.output[0]].astype(np.int16)
    (reader,) = engine.consumers[quantize.output[0]]
    while reader.op_type != "DequantizeLinear":
        if reader.op_type == "Resize":
            sides = engine.value(reader.input[2])
            assert sides is not None
            codes = codes[:, :, :: int(sides[2]), :: int(sides[3])]
        (reader,) = engine.consumers[reader.output[0]]
    dequantize = bundle.consumers[original.output[0]][0]
    product, before = engine.consumers[reader.output[0]][0], bundle.consumers[dequantize.output[0]][0]
    if product.op_type == "Conv" and codes.ndim == 3:
        codes = codes.transpose(0, 2, 1)[..., None]
    elif product.op_type == "Conv":
        top, left, bottom, right = (
            max(ours - theirs, 0) for ours, theirs in zip(pads_of(product), pads_of(before), strict=True)
        )
        codes = codes[:, :, top : codes.shape[2] - bottom, left : codes.shape[3] - right]
    shift = 128 if own_zero.dtype == np.uint8 and zero.dtype == np.int8 else 0
    return ((codes + (shift - own_zero.astype(np.int16))) * scale).astype(np.float32)


def port_quantizer(bundle: Graph, quantize: onnx.NodeProto) -> onnx.NodeProto:
    """The Q of the bundle's graph that a Q of an engine's was made from: they bear one name."""
    return bundle.named[quantize.name.removesuffix("/as_convolution")]


def joined(
    engine: Graph, found: Mapping[str, Segment], values: Mapping[str, np.ndarray]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Sub-graphs side by side in one model, names prefixed by their keys, and what its inputs take: input →
    tensor.

    values: of every tensor that comes in; the shapes and integers of other pictures are the same. A wall's value
    has the name of its Q.
    """
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    takes: dict[str, str] = {}
    for prefix, segment in found.items():
        for node in segment.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            names = [name and f"{prefix}/{name}" for name in node.input]
            if any(node is wall for wall in segment.walls):
                names[0] += COMES_IN
                takes[names[0]] = node.name
            if node.op_type == "Cast" and TensorProto.BFLOAT16 in [entry.i for entry in node.attribute]:
                copy = onnx.NodeProto(op_type="Identity")
            copy.name = f"{prefix}/{node.name}"
            copy.input[:], copy.output[:] = names, [name and f"{prefix}/{name}" for name in node.output]
            nodes.append(copy)
            for name, ours in zip(node.input, names, strict=True):
                if name in engine.constants and ours not in constants:
                    value = engine.value(name)
                    assert value is not None
                    constants[ours] = value
        for name in segment.inputs:
            if values[name].dtype.kind == "f":
                takes[f"{prefix}/{name}"] = name
            else:
                constants[f"{prefix}/{name}"] = values[name]
    results = [f"{prefix}/{name}" for prefix, segment in found.items() for name in segment.results]
    body = helper.make_graph(
        nodes,
        "segments",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, values[of].shape) for name, of in takes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9), takes
