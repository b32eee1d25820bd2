"""A graph's half-precision tensors computed in float32, and how far they reach.

ONNX Runtime's CPU kernels are of float32: in bfloat16 it has hardly any, and half precision it casts where it must
and rounds nowhere between.

1. Types are inferred node by node. A tensor of a half-precision type becomes float32 under its own name.
2. A half constant, and what a node makes in half precision by itself (Cast, Constant, ConstantOfShape), is cast.
3. rounded: what any other node gives is rounded, by a Cast there and back, but for what only moves values. That is
   bfloat16 or half precision as a GPU computes it: products summed in float32, every result rounded.
   Not rounded: numbers as large as they want to be.

Weights beside a graph are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import TensorProto, helper

HALF, BFLOAT16 = TensorProto.FLOAT16, TensorProto.BFLOAT16
HALVES = (HALF, BFLOAT16)
LARGEST = 65504.0  # of half precision
OWN = {"Cast", "Constant", "ConstantOfShape"}  # make a type of their own
MOVES = {
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad"),
    *("Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
}
LARGEST_OF = "largest/"  # begins the name of an output that is a tensor's max |x|


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor → its type (onnx.TensorProto.DataType), constants among them."""
    known = onnx.shape_inference.infer_shapes(model).graph
    values = (*known.input, *known.output, *known.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in known.initializer}


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Does a graph compute in half precision or bfloat16? Casts there and back do not."""
    casts = {attribute.i for node in model.graph.node if node.op_type == "Cast" for attribute in node.attribute}
    if not (casts | {tensor.data_type for tensor in model.graph.initializer}) & {*HALVES}:
        return False
    types = types_of(model)
    return any(
        types.get(name) in HALVES
        for node in model.graph.node
        if node.op_type != "Cast"
        for name in (*node.input, *node.output)
    )


def in_float32(model: onnx.ModelProto, rounded: bool = True) -> onnx.ModelProto:
    """The graph without half-precision operations; it takes and gives what it did."""
    types, result = types_of(model), onnx.ModelProto()
    result.CopyFrom(model)
    graph, first, last = result.graph, list[onnx.NodeProto](), list[onnx.NodeProto]()
    for tensor in graph.initializer:
        if tensor.data_type in HALVES:
            first.append(_cast(f"{tensor.name}/half", tensor.name, TensorProto.FLOAT))
            tensor.name = f"{tensor.name}/half"
    within = {value.name: f"{value.name}/float32" for value in (*graph.input, *graph.output) if _is_half(value)}
    first += [
        _cast(value.name, within[value.name], TensorProto.FLOAT) for value in graph.input if value.name in within
    ]
    last += [
        _cast(within[value.name], value.name, types[value.name]) for value in graph.output if value.name in within
    ]
    nodes = list[onnx.NodeProto]()
    for node in graph.node:
        made = list(_brought(node, types, rounded))
        for each in (node, *made):
            each.input[:] = [within.get(name, name) for name in each.input]
            each.output[:] = [within.get(name, name) for name in each.output]
            nodes.append(each)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*first, *nodes, *last)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return result


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in HALVES


def _brought(node: onnx.NodeProto, types: Mapping[str, int], rounded: bool) -> Iterator[onnx.NodeProto]:
    """What follows a node so that its outputs are float32; they are renamed where something does."""
    for index, name in enumerate(node.output):
        kind = types.get(name, 0)
        if kind not in HALVES:
            continue
        if node.op_type in OWN:
            node.output[index] = f"{name}/half"
            yield _cast(f"{name}/half", name, TensorProto.FLOAT)
        elif rounded and node.op_type not in MOVES:
            node.output[index] = f"{name}/exact"
            yield _cast(f"{name}/exact", f"{name}/half", kind)
            yield _cast(f"{name}/half", name, TensorProto.FLOAT)


def _cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}/cast", to=kind)


def with_largest(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The graph with max |x| of these float32 tensors as outputs more, `LARGEST_OF` and the tensor's name."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for name in tensors:
        found = f"{LARGEST_OF}{name}"
        result.graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"{found}/abs"]),
                helper.make_node("ReduceMax", [f"{found}/abs"], [found], keepdims=0),
            ]
        )
        result.graph.output.append(helper.make_tensor_value_info(found, TensorProto.FLOAT, []))
    return result


def half_tensors(model: onnx.ModelProto) -> list[str]:
    """What a graph's nodes give in half precision, in their order; constants are not among them."""
    types = types_of(model)
    return [name for node in model.graph.node for name in node.output if types.get(name) == HALF]
