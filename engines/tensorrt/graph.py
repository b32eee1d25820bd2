"""What a half-precision QDQ graph must look like for TensorRT-RTX to write INT8 and FP8 convolutions as Half.

RTX applies one weight scale in a convolution's own epilogue. With a scale per output channel it writes Float and
leaves the scaling to the kernel behind it: twice the bytes of Half there and back. So the scales w [O] part into
t·g, t a power of two: the DequantizeLinear keeps t, and a Mul by g [1,O,1,1] and an Add of the bias follow the
convolution, where they join the next kernel. code·w = (code·t)·g holds exactly. TensorRT needs none of this.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from passionsr_trt.engines.graph.rewriting import Graph

MOST_LARGER = 64.0  # than it was may a channel become before its gain: Half ends at 65504


def scales_after_convolutions(model: onnx.ModelProto, folder: Path) -> int:
    """Rewrite every half-precision convolution of weights in codes in place; returns how many that were.

    folder: where weights outside the graph lie.
    """
    graph = Graph(model, folder)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        weights = graph.producers.get(node.input[1]) if node.op_type == "Conv" else None
        if weights is None or weights.op_type != "DequantizeLinear":
            continue
        scales = graph.value(weights.input[1])
        if scales is None or scales.dtype != np.float16 or scales.ndim != 1:
            continue
        kept = np.exp2(np.round(np.log2(scales.astype(np.float64)).mean())).astype(np.float16)
        gains = scales / kept
        exact = np.array_equal(gains * kept, scales)  # not where something is subnormal
        if not exact or kept > MOST_LARGER * scales.min():
            continue
        name, output = node.name, node.output[0]
        weights.input[1] = graph.constant(f"{name}/weight_scale", kept)
        codes = helper.tensor_dtype_to_np_dtype(graph.constants[weights.input[0]].data_type)
        weights.input[2] = graph.constant(f"{name}/weight_zero", np.zeros((), codes))
        del weights.attribute[:]  # the axis
        node.output[0] = f"{name}/unscaled"
        gain = graph.constant(f"{name}/gain", gains.reshape(1, -1, 1, 1))
        bias = node.input.pop() if len(node.input) == 3 else ""
        scaled = f"{name}/scaled" if bias else output
        nodes = [node, helper.make_node("Mul", [node.output[0], gain], [scaled], name=f"{name}/scale")]
        if bias:
            value = graph.value(bias)
            assert value is not None, "a convolution's bias is a constant"
            added = graph.constant(f"{name}/added", value.reshape(1, -1, 1, 1))
            nodes.append(helper.make_node("Add", [scaled, added], [output], name=f"{name}/add_bias"))
        replaced[node.output[0]] = nodes
    graph.replace(replaced)
    return len(replaced)
