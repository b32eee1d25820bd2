"""Weight scales behind half-precision convolutions, so that TensorRT-RTX writes INT8 and FP8 ones as Half.

    before: x → Conv of DequantizeLinear(codes, w [O]), bias
    after:  x → Conv of DequantizeLinear(codes, t) → Mul g [1, O, 1, 1] → Add bias [1, O, 1, 1]

RTX applies one weight scale in a convolution's own epilogue. With a scale per output channel it writes Float and
leaves the scaling to the kernel behind it: twice the bytes of Half there and back. So with bfloat16.

1. The scales part into t·g, t a power of two near their geometric mean: code·w = (code·t)·g holds exactly. Left
   alone are convolutions where it does not, because something is subnormal.
2. The DequantizeLinear keeps t. Left alone are convolutions of a channel that would become more than `MOST_LARGER`
   times larger before its gain.
3. Mul and Add follow the convolution, where they join the next kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from passionsr_trt.engines.graph.rewriting import (
    Rewriting,
    again,
    array,
    constant,
    giver,
    inputs_of,
    make,
    maker,
    nodes_of,
    replace,
)

HALVES = (ir.DataType.FLOAT16.numpy(), ir.DataType.BFLOAT16.numpy())
MOST_LARGER = 64.0  # Half ends at 65504


@dataclass(frozen=True)
class Scaled:
    """A convolution of weights in codes, and what its scales part into."""

    conv: ir.Node
    kept: np.ndarray
    gains: np.ndarray


class ScalesAfterConvolutions(Rewriting[Scaled]):
    """Every half-precision convolution of weights in codes."""

    def find(self, graph: ir.Graph) -> Iterator[Scaled]:
        for conv in nodes_of(graph, "Conv"):
            weight = giver(conv.inputs[1], "DequantizeLinear")
            scales = None if weight is None else array(weight.inputs[1])
            if scales is None or scales.dtype not in HALVES or scales.ndim != 1:
                continue
            kept = np.exp2(np.round(np.log2(scales.astype(np.float64)).mean())).astype(scales.dtype)
            gains = scales / kept
            if np.array_equal(gains * kept, scales) and kept <= MOST_LARGER * scales.min():
                yield Scaled(conv, kept, gains)

    def rewrite(self, graph: ir.Graph, match: Scaled) -> None:
        old, name = match.conv, match.conv.name
        x, weight, *bias = inputs_of(old)
        dequantize = maker(weight)
        codes = inputs_of(dequantize)[0]
        scale = constant(graph, f"{name}/weight_scale", match.kept)
        zero = constant(graph, f"{name}/weight_zero", np.zeros((), array(codes).dtype))
        kept = make("DequantizeLinear", [codes, scale, zero], f"{name}/kept", dequantize.name)
        gain = constant(graph, f"{name}/gain", match.gains.reshape(1, -1, 1, 1))
        conv = again(old, [x, *kept.outputs], f"{name}/unscaled")
        nodes = [kept, conv, make("Mul", [*conv.outputs, gain], f"{name}/scaled", f"{name}/scale")]
        if bias:
            added = constant(graph, f"{name}/added", array(bias[0]).reshape(1, -1, 1, 1))
            nodes.append(make("Add", [*nodes[-1].outputs, added], f"{name}/biased", f"{name}/add_bias"))
        graph.insert_before(old, nodes)
        replace(old.outputs[0], nodes[-1].outputs[0])
