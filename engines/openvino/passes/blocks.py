"""A float convolution with few outputs computes 2×2 pixels at once: a network's last one, which gives 3 colours.

    before: x → Conv [O, C, k, k], pads p
    after:  x → Conv [4O, C, k + 1, k + 1], stride 2, pads p → DepthToSpace(2, DCR)

1. Rows (i, j, o) of the new weight are the kernel of o, i rows and j columns further; the rest of them is 0.
2. A bias is repeated for every (i, j).
3. Left alone: codes for a weight, a stride, groups, an even kernel, more than `MOST` outputs.

Sums are the same. A kernel on vectors of 16 floats fills 12 of them where it filled 3, and does 16 taps for 36.
Whether that is faster a probe says (probes.py). The picture's sides have to be even.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from passionsr_trt.engines.graph.rewriting import (
    Rewriting,
    array,
    constant,
    inputs_of,
    make,
    pads_of,
    replace,
)

SIDE = 2
MOST = 4  # outputs: four times as many fill a vector


class PixelsInBlocks(Rewriting[ir.Node]):
    """The convolution that gives a tensor whose sides are even."""

    def __init__(self, result: str) -> None:
        """result: the tensor's name."""
        self.result = result

    def find(self, graph: ir.Graph) -> Iterator[ir.Node]:
        return (node for node in graph if node.outputs[0].name == self.result and _has_few_outputs(node))

    def rewrite(self, graph: ir.Graph, match: ir.Node) -> None:
        weight, *bias = (array(value) for value in match.inputs[1:])
        height, width = weight.shape[2:]
        moved = np.zeros((SIDE, SIDE, *weight.shape[:2], height + SIDE - 1, width + SIDE - 1), weight.dtype)
        for i in range(SIDE):
            for j in range(SIDE):
                moved[i, j, :, :, i : i + height, j : j + width] = weight
        constants = [moved.reshape(-1, *moved.shape[3:]), *(np.tile(row, SIDE * SIDE) for row in bias)]
        inputs = [
            constant(graph, f"{old.name}/blocks", new)
            for old, new in zip(inputs_of(match)[1:], constants, strict=True)
        ]
        blocks, sides = f"{self.result}/blocks", {"kernel_shape": moved.shape[4:], "strides": [SIDE] * 2}
        conv = make("Conv", [match.inputs[0], *inputs], blocks, match.name, pads=pads_of(match), **sides)
        shuffle = make("DepthToSpace", [conv.outputs[0]], self.result, blocks, blocksize=SIDE, mode="DCR")
        graph.insert_before(match, [conv, shuffle])
        replace(match.outputs[0], shuffle.outputs[0])


def _has_few_outputs(conv: ir.Node) -> bool:
    if conv.op_type != "Conv":
        return False
    constants = [array(value) for value in conv.inputs[1:]]
    if any(value is None for value in constants) or len(constants[0]) > MOST or constants[0].ndim != 4:
        return False
    height, width = constants[0].shape[2:]
    if height % 2 == 0 or width % 2 == 0 or pads_of(conv) != [height // 2, width // 2] * 2:
        return False
    own = conv.attributes
    plain = list(own.get_ints("strides", [1, 1])) == list(own.get_ints("dilations", [1, 1])) == [1, 1]
    return plain and own.get_int("group", 1) == 1 and own.get_string("auto_pad", "NOTSET") == "NOTSET"
