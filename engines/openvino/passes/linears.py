"""INT8 linears on tokens as 1×1 convolutions, for CPUs whose INT8 matrix product is no faster than the float one.

    before: x [B, N, K] → Q → DQ → MatMul [K, O] (→ Add)
    after:  x [B, N, K] → Reshape [B, N, 1, K] → Transpose [B, K, N, 1] → Q → DQ → Conv [O, K, 1, 1]
                        → Transpose [B, N, 1, O] → Reshape [B, N, O]

1. A port's Q and DQ are laid out anew once for all linears that it feeds; where it feeds others, beside the old.
2. Weight codes change places, [K, O] → [O, K, 1, 1]; scales stay.
3. A bias that is added right behind goes into the convolution.
4. Where tokens become channels again, [B, N, O] → Transpose → [B, O, N], as in front of a picture, the
   convolution's channels are taken as they are: OpenVINO 2026.4.1 gives wrong numbers, 140 % off, for its
   transposition back and another one behind.

OpenVINO keeps a convolution's channels last, as tokens lie already, so that the new reshapes cost nothing. Sums of
codes are the same integers; results differ by float rounding behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from passionsr_trt.engines.graph.names import as_convolution
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


@dataclass(frozen=True)
class Linears:
    """The linears that one port feeds."""

    quantize: ir.Node
    dequantize: ir.Node
    products: tuple[ir.Node, ...]

    @property
    def are_alone(self) -> bool:
        """Does nothing else read the port?"""
        readers = readers_of(self.dequantize.outputs[0])
        return len(readers) == len(self.products) and len(self.quantize.outputs[0].uses()) == 1


class LinearsAsConvolutions(Rewriting[Linears]):
    """Every INT8 linear on three-dimensional tokens, by ports."""

    def find(self, graph: ir.Graph) -> Iterator[Linears]:
        ports: dict[ir.Node, list[ir.Node]] = {}
        for product in nodes_of(graph, "MatMul"):
            dequantize, weight = (giver(value, "DequantizeLinear") for value in product.inputs)
            if dequantize is None or weight is None or not _are_int8_codes(inputs_of(weight)[0]):
                continue
            quantize = giver(dequantize.inputs[0], "QuantizeLinear")
            shape = None if quantize is None else inputs_of(quantize)[0].shape
            if shape is not None and shape.rank() == 3:
                ports.setdefault(dequantize, []).append(product)
        for dequantize, products in ports.items():
            yield Linears(maker(inputs_of(dequantize)[0]), dequantize, tuple(products))

    def rewrite(self, graph: ir.Graph, match: Linears) -> None:
        nodes = _port(graph, match)
        graph.insert_after(match.dequantize, nodes)
        for product in match.products:
            _as_convolution(graph, product, nodes[-1].outputs[0])


def _are_int8_codes(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.shape.rank() == 2 and tensor.dtype == ir.DataType.INT8


def _port(graph: ir.Graph, match: Linears) -> list[ir.Node]:
    """Rule 1: Q and DQ on tokens as [B, K, N, 1]; they keep their names where the old ones go."""
    name, keep = match.dequantize.outputs[0].name, match.are_alone
    shape = constant(graph, "linears/tokens", np.array([0, 0, 1, -1]))
    rows = make("Reshape", [match.quantize.inputs[0], shape], f"{name}/rows")
    laid = make("Transpose", rows.outputs, f"{name}/laid", perm=[0, 3, 1, 2])
    nodes = [rows, laid]
    for old, result in ((match.quantize, f"{name}/codes"), (match.dequantize, f"{name}/channels")):
        own = old.name if keep else as_convolution(old.name)
        nodes.append(make(old.op_type, [*nodes[-1].outputs, *old.inputs[1:]], result, own))
    return nodes


def _as_convolution(graph: ir.Graph, product: ir.Node, x: ir.Value) -> None:
    """Rules 2 to 4 for one linear; x: what its port gives now."""
    weight, name = inputs_of(product)[1], product.outputs[0].name
    dequantize = maker(weight)
    codes = inputs_of(dequantize)[0]
    laid = array(codes).T[:, :, None, None]
    codes.const_value = ir.tensor(laid, name=codes.name)
    codes.shape, weight.shape = ir.Shape(laid.shape), None
    dequantize.attributes["axis"] = ir.AttrInt64("axis", 0)
    last, bias = _bias_behind(product)
    inputs = [x, weight, *([bias] if bias is not None else [])]
    conv = make("Conv", inputs, f"{name}/channels", product.name, kernel_shape=[1, 1])
    back = constant(graph, "linears/back", np.array([0, 0, -1]))
    nodes = [conv]
    turned = only_reader(last.outputs[0], "Transpose")
    if turned is not None and list(turned.attributes.get_ints("perm", [])) == [0, 2, 1]:
        last = turned
        nodes.append(make("Reshape", [*conv.outputs, back], f"{name}/short"))
    else:
        nodes.append(make("Transpose", conv.outputs, f"{name}/rows", perm=[0, 2, 3, 1]))
        nodes.append(make("Reshape", [*nodes[-1].outputs, back], f"{name}/tokens"))
    graph.insert_before(last, nodes)
    replace(last.outputs[0], nodes[-1].outputs[0])


def _bias_behind(product: ir.Node) -> tuple[ir.Node, ir.Value | None]:
    """The Add of a bias right behind a linear, and that bias; the linear itself and None where there is none."""
    add = only_reader(product.outputs[0], "Add")
    if add is not None:
        (other,) = (value for value in inputs_of(add) if value is not product.outputs[0])
        value = array(other)
        if value is not None and value.ndim == 1:
            return add, other
    return product, None
