"""Unsigned codes, which CPU kernels take, where signed ones cost something or go wrong: two rewritings.

`ShiftsAsUnsignedCodes` makes a port's shift by a whole number a of codes its zero point:

    before: x → (Pad 0) → (Mul 1/s) → Add −a·Δ → (Clip) → Q int8 → DQ → Conv
    after:  x → (Mul 1/s) → (Clip) → Q uint8, zero point 128 − a → DQ → Conv, padded by as much

1. Codes grow by 128, what they stand for, a Clip's limits too, by a·Δ.
2. So zero padding is 0 again: the convolution's own, and nothing is padded in float.
3. a·Δ times the sum of a row's rounded weights leaves the convolution's bias.
4. Ports that feed anything but INT8 convolutions keep their shift.

`SignedAsUnsignedCodes`, behind it, changes the zero points of signed codes:

1. Ports behind a Concat, through what is done pixel by pixel (`POINTWISE`), have 128 more for a zero point, uint8:
   the same values. OpenVINO 2026.4.1 works with unsigned codes of its own there and forgets their zero point:
   results of int8 codes are off by 40 to 100 %, without a message (benchmarks/wrong_kernels.py sweeps structures).
2. Only INT8 convolutions read them. Elsewhere signed codes are right, and 4 to 7 % faster on a CPU with AVX2.

Sums are the same but for float rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from passionsr_trt.engines.graph.rewriting import (
    Rewriting,
    array,
    constant,
    giver,
    inputs_of,
    maker,
    nodes_of,
    only_reader,
    pads_of,
    readers_of,
)

NEAR = 1e-3  # of a code, from float rounding of δ/s
HALF = 128
POINTWISE = ("Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Clip")


@dataclass(frozen=True)
class Port:
    """Q and DQ of int8 codes that INT8 convolutions alone read. step: Δ."""

    quantize: ir.Node
    dequantize: ir.Node
    step: float
    zero: int

    @property
    def convolutions(self) -> list[ir.Node]:
        return readers_of(self.dequantize.outputs[0])


@dataclass(frozen=True)
class Shift:
    """What shifts a port by a whole number of codes, a. x: what the Add takes besides its constant."""

    port: Port
    codes: int
    clip: ir.Node | None
    x: ir.Value


@dataclass(frozen=True)
class Padding:
    """A Pad with zeros in front of a shift, by `pads`, with a Mul between them or none."""

    pad: ir.Node
    scaling: ir.Node | None
    pads: tuple[int, ...]


def ports(graph: ir.Graph) -> Iterator[Port]:
    """The ports of int8 codes, of one step each, that INT8 convolutions alone read."""
    for quantize in nodes_of(graph, "QuantizeLinear"):
        dequantize = only_reader(quantize.outputs[0], "DequantizeLinear")
        if len(quantize.inputs) != 3 or dequantize is None:
            continue
        step, zero = (array(value) for value in quantize.inputs[1:])
        if step is None or zero is None or step.size != 1 or zero.size != 1 or zero.dtype != np.int8:
            continue
        port = Port(quantize, dequantize, float(step.item()), int(zero.item()))
        if port.convolutions and all(map(_is_int8_convolution, port.convolutions)):
            yield port


def _is_int8_convolution(node: ir.Node) -> bool:
    weight = giver(node.inputs[1], "DequantizeLinear") if node.op_type == "Conv" else None
    if weight is None:
        return False
    return all(value.is_initializer() for value in (*inputs_of(weight)[:2], *inputs_of(node)[2:]))


class ShiftsAsUnsignedCodes(Rewriting[Shift]):
    """Every port that is shifted by a whole number of codes."""

    def find(self, graph: ir.Graph) -> Iterator[Shift]:
        return (shift for port in ports(graph) if (shift := _shift(port)) is not None)

    def rewrite(self, graph: ir.Graph, match: Shift) -> None:
        port, padding, x = match.port, _padding(match.x), match.x
        name, moved = port.quantize.name, match.codes * port.step
        if padding is not None:
            x = inputs_of(padding.pad)[0]
            if padding.scaling is not None:
                index = list(padding.scaling.inputs).index(padding.pad.outputs[0])
                padding.scaling.replace_input_with(index, x)
                x = match.x
        if match.clip is None:
            port.quantize.replace_input_with(0, x)
        else:
            match.clip.replace_input_with(0, x)
            for index, limit in enumerate(map(array, match.clip.inputs[1:]), 1):
                grown = constant(graph, f"{name}/unsigned{index}", (limit + moved).astype(limit.dtype))
                match.clip.replace_input_with(index, grown)
        _set_zero(port, constant(graph, f"{name}/unsigned_zero", np.array(HALF - match.codes, np.uint8)))
        for node in port.convolutions:
            pads = [0] * 4 if padding is None else padding.pads
            _unshift(graph, node, moved, [own + more for own, more in zip(pads_of(node), pads, strict=True)])


class SignedAsUnsignedCodes(Rewriting[Port]):
    """Every port of int8 codes behind a Concat."""

    def requires(self, model: ir.Model) -> None:
        if next(ShiftsAsUnsignedCodes().find(model.graph), None) is not None:
            raise ir.passes.PreconditionError("a shift is left, which is known by its int8 codes")

    def find(self, graph: ir.Graph) -> Iterator[Port]:
        return (port for port in ports(graph) if _is_behind_concat(port.quantize))

    def rewrite(self, graph: ir.Graph, match: Port) -> None:
        zero = np.array(HALF + match.zero, np.uint8)
        _set_zero(match, constant(graph, f"zero {match.zero} of unsigned codes", zero))


def _set_zero(port: Port, zero: ir.Value) -> None:
    """Unsigned codes, by their zero point."""
    for node in (port.quantize, port.dequantize):
        node.replace_input_with(2, zero)
    codes = port.quantize.outputs[0]
    if codes.type is not None:
        codes.type = ir.TensorType(ir.DataType.UINT8)


def _is_behind_concat(quantize: ir.Node) -> bool:
    waiting, seen = [quantize.inputs[0]], set()
    while waiting:
        value = waiting.pop()
        node = None if value is None else value.producer()
        if node is None or node in seen:
            continue
        if node.op_type == "Concat":
            return True
        seen.add(node)
        if node.op_type in POINTWISE:
            waiting += node.inputs
    return False


def _shift(port: Port) -> Shift | None:
    """The shift of a port, where all of it is as above."""
    value, lowest = inputs_of(port.quantize)[0], None
    clip = giver(value, "Clip")
    if clip is not None:
        limits = [array(limit) for limit in clip.inputs[1:]]
        if any(limit is None for limit in limits):
            return None
        lowest, value = float(limits[0]), inputs_of(clip)[0]
    add = giver(value, "Add")
    if port.zero != 0 or add is None or len(value.uses()) != 1:
        return None
    constants = [entry for entry in inputs_of(add) if array(entry) is not None]
    if len(constants) != 1:
        return None
    shift = -array(constants[0]).astype(np.float64) / port.step
    codes = round(float(shift.mean()))
    if not 0 < codes <= HALF or np.abs(shift - codes).max() > NEAR:
        return None
    if lowest is not None and lowest > (NEAR - codes) * port.step:
        return None  # the padding would be clipped
    (x,) = (entry for entry in inputs_of(add) if entry is not constants[0])
    if _padding(x) is None and any(any(pads_of(node)) for node in port.convolutions):
        return None  # padded with codes already
    return Shift(port, codes, clip, x)


def _padding(x: ir.Value) -> Padding | None:
    """The Pad of rows and columns with zeros that gives `x`; without one nothing is padded in float."""
    scaling, padded = giver(x, "Mul"), x
    if scaling is not None and len(x.uses()) == 1:
        inner = [value for value in inputs_of(scaling) if array(value) is None]
        padded = inner[0] if len(inner) == 1 else x
    pad = giver(padded, "Pad")
    if pad is None or len(padded.uses()) != 1 or pad.attributes.get_string("mode", "constant") != "constant":
        return None
    pads, filling = array(pad.inputs[1]), np.zeros(())
    if len(pad.inputs) > 2 and pad.inputs[2] is not None:
        filling = array(pad.inputs[2])
    if pads is None or pads.size != 8 or filling is None or filling.any() or pads[[0, 1, 4, 5]].any():
        return None
    return Padding(pad, None if padded is x else scaling, tuple(pads[[2, 3, 6, 7]].tolist()))


def _unshift(graph: ir.Graph, conv: ir.Node, moved: float, pads: list[int]) -> None:
    """Rules 2 and 3 for one convolution."""
    codes, scales = (array(value) for value in maker(inputs_of(conv)[1]).inputs[:2])
    sums = codes.astype(np.int64).reshape(len(codes), -1).sum(1) * scales.astype(np.float64)
    bias = array(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(len(codes), scales.dtype)
    own = constant(graph, f"{conv.name}/unsigned_bias", (bias - moved * sums).astype(bias.dtype))
    conv.resize_inputs(3)
    conv.replace_input_with(2, own)
    conv.attributes["pads"] = ir.AttrInt64s("pads", pads)
