"""A convolution in sub-pixel form (export/model/sub_pixel.py) as one convolution per phase.

    before: x → Conv [4O, C, 2, 2], pads 1 → DepthToSpace(2, DCR) → one pixel off every side
    after:  x → four Conv [O, C, 2, 2], each padded on the two sides that its phase reads → Concat → DepthToSpace

1. Each convolution has a quarter of the rows of the weight's codes, scales and zero points, and of the bias.
2. It is padded on the two sides that its phase reads (`PADS`).
3. Phases stand in the Concat from even-even to odd-odd: so DepthToSpace puts them together without a border.
4. Left alone: convolutions whose port pads for them, as one with a shift does (unsigned.py).

Every phase has as many rows and columns as x, a quarter of the weights to keep in a cache, and no border that is
computed and cut off; the sums are the same. Whether it is faster a probe says (probes.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from passionsr_trt.engines.graph.names import phase_of
from passionsr_trt.engines.graph.rewriting import (
    Rewriting,
    again,
    array,
    constant,
    giver,
    inputs_of,
    make,
    nodes_of,
    only_reader,
    pads_of,
    replace,
)

# of odd-odd, odd-even, even-odd, even-even rows of the weight; odd phases read one pixel further right or down
PADS = ((0, 0, 1, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 1, 0, 0))


@dataclass(frozen=True)
class SubPixel:
    """The nodes of a convolution in sub-pixel form. last: the slice that cuts the last side."""

    conv: ir.Node
    shuffle: ir.Node
    last: ir.Node


class PhasesApart(Rewriting[SubPixel]):
    """Every padded convolution in sub-pixel form."""

    def find(self, graph: ir.Graph) -> Iterator[SubPixel]:
        for shuffle in nodes_of(graph, "DepthToSpace"):
            conv, last = giver(shuffle.inputs[0], "Conv"), _last_crop(shuffle.outputs[0])
            if conv is not None and last is not None and _in_sub_pixel_form(conv, shuffle):
                yield SubPixel(conv, shuffle, last)

    def rewrite(self, graph: ir.Graph, match: SubPixel) -> None:
        conv, name, result = match.conv, match.conv.name, match.last.outputs[0]
        phases = []
        for index, pads in enumerate(PADS):
            inputs = [conv.inputs[0], *(_rows(graph, value, index, conv) for value in inputs_of(conv)[1:])]
            phases.append(make("Conv", inputs, phase_of(name, index), pads=pads, kernel_shape=[2, 2]))
        together = [phase.outputs[0] for phase in reversed(phases)]  # even-even comes first now
        concat = make("Concat", together, f"{name}/phases", axis=1)
        shuffle = again(match.shuffle, concat.outputs, f"{name}/shuffled")
        graph.insert_before(conv, [*phases, concat, shuffle])
        replace(result, shuffle.outputs[0])


def _last_crop(value: ir.Value) -> ir.Node | None:
    """The last of the slices, one behind another, that take one pixel off every side; None where they do not."""
    cut: set[tuple[int, int, int]] = set()
    while (crop := only_reader(value, "Slice")) is not None:
        values = [found.tolist() for entry in crop.inputs[1:] if (found := array(entry)) is not None]
        if not 3 <= len(values) == len(crop.inputs) - 1 or set().union(*values[3:]) - {1}:
            return None
        cut |= set(zip(*values[:3], strict=True))
        if {axis for _start, _end, axis in cut} >= {2, 3}:
            return crop if cut == {(1, -1, 2), (1, -1, 3)} else None
        value = crop.outputs[0]
    return None


def _in_sub_pixel_form(conv: ir.Node, shuffle: ir.Node) -> bool:
    own, behind = conv.attributes, shuffle.attributes
    if behind.get_int("blocksize") != 2 or behind.get_string("mode") != "DCR" or pads_of(conv) != [1] * 4:
        return False
    if list(own.get_ints("kernel_shape", [])) != [2, 2] or list(own.get_ints("strides", [1, 1])) != [1, 1]:
        return False
    _x, weight, *bias = inputs_of(conv)
    dequantize = giver(weight, "DequantizeLinear")
    if dequantize is not None and only_reader(weight, "Conv") is None:
        return False
    constants = [*([weight] if dequantize is None else inputs_of(dequantize)), *bias]
    return only_reader(conv.outputs[0], "DepthToSpace") is not None and all(
        value.is_initializer() for value in constants
    )


def _rows(graph: ir.Graph, value: ir.Value, index: int, before: ir.Node) -> ir.Value:
    """The rows of one phase of a weight or bias; a DequantizeLinear of them stands before the convolution."""
    dequantize = value.producer()
    if dequantize is None:
        return constant(graph, phase_of(value.name, index), np.split(array(value), len(PADS))[index])
    inputs = [_rows(graph, entry, index, before) for entry in inputs_of(dequantize)]
    name = phase_of(dequantize.name, index)
    made = again(dequantize, inputs, phase_of(value.name, index), name)
    graph.insert_before(before, made)
    return made.outputs[0]
