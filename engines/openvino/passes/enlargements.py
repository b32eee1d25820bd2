"""Codes are enlarged instead of values: a quarter of the work and of the bytes.

    before: x → Resize, nearest pixels → Q → DQ
    after:  x → Q → Resize, nearest pixels → DQ

1. Q takes what the Resize took; its scale and zero point are constants.
2. The Resize takes its codes, and gives what Q gave.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from passionsr_trt.engines.graph.rewriting import Rewriting, again, array, only_reader, replace


class CodesBeforeEnlargements(Rewriting[tuple[ir.Node, ir.Node]]):
    """Every nearest Resize that a Q alone reads, and that Q."""

    def find(self, graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
        for resize in reversed(graph):  # of two in a row the last one goes behind Q first
            if resize.op_type != "Resize" or resize.attributes.get_string("mode", "nearest") != "nearest":
                continue
            quantize = only_reader(resize.outputs[0], "QuantizeLinear")
            if quantize is not None and array(quantize.inputs[1]) is not None:
                yield resize, quantize

    def rewrite(self, graph: ir.Graph, match: tuple[ir.Node, ir.Node]) -> None:
        resize, quantize = match
        codes = quantize.outputs[0]
        small = again(quantize, [resize.inputs[0], *quantize.inputs[1:]], f"{codes.name}/small")
        enlarged = again(resize, [small.outputs[0], *resize.inputs[1:]], f"{codes.name}/enlarged")
        graph.insert_before(quantize, [small, enlarged])
        replace(codes, enlarged.outputs[0])
