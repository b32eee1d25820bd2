"""A float convolution with few outputs computes 2×2 pixels at once: a network's last one, which gives 3 colours.

    before: x → Conv [O, C, k, k], pads p
    after:  x → Conv [4O, C, k + 1, k + 1], stride 2, pads p → DepthToSpace(2, DCR)

Rows (i, j, o) of the new weight are the kernel of o, i rows and j columns further; the rest of them is 0. Sums are
the same. A kernel on vectors of 16 floats fills 12 of them where it filled 3, and does 16 taps for 36. Whether
that is faster a probe says (probes.py). The picture's sides have to be even.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from passionsr_trt.engines.graph.rewriting import Graph

SIDE = 2
MOST = 4  # outputs: four times as many fill a vector


def pixels_in_blocks(model: onnx.ModelProto, path: Path, result: str) -> int:
    """Rewrite the convolution that gives the tensor `result`, whose sides are even, in place; returns how many.

    path: the graph's file. Left alone: one with codes for a weight, a stride, groups or more than `MOST` outputs.
    """
    graph = Graph(model, path.parent)
    conv = graph.producers.get(result)
    if conv is None or conv.op_type != "Conv":
        return 0
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in conv.attribute}
    constants = [value for name in conv.input[1:] if (value := graph.value(name)) is not None]
    if len(constants) < len(conv.input) - 1 or len(constants[0]) > MOST or constants[0].ndim != 4:
        return 0
    weight, *bias = constants
    height, width = weight.shape[2:]
    same = [height // 2, width // 2] * 2
    if height % 2 == 0 or width % 2 == 0 or attributes.get("pads", [0] * 4) != same:
        return 0
    plain = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
    if any(attributes.get(key, value) != value for key, value in plain.items()):
        return 0
    moved = np.zeros((SIDE, SIDE, *weight.shape[:2], height + SIDE - 1, width + SIDE - 1), weight.dtype)
    for i in range(SIDE):
        for j in range(SIDE):
            moved[i, j, :, :, i : i + height, j : j + width] = weight
    inputs = [conv.input[0], graph.constant(f"{conv.input[1]}/blocks", moved.reshape(-1, *moved.shape[3:]))]
    if bias:
        inputs.append(graph.constant(f"{conv.input[2]}/blocks", np.tile(bias[0], SIDE * SIDE)))
    blocks = f"{result}/blocks"
    sides = {"kernel_shape": moved.shape[4:], "strides": [SIDE] * 2, "pads": same}
    graph.replace(
        {
            result: [
                helper.make_node("Conv", inputs, [blocks], conv.name, **sides),
                helper.make_node("DepthToSpace", [blocks], [result], blocks, blocksize=SIDE, mode="DCR"),
            ]
        }
    )
    graph.forget_unused()
    return 1
