"""A calibration for INT8, brought into codes of weights alone: activations stay float.

| INT8's                         | W8's                                                                          |
| ------------------------------ | ----------------------------------------------------------------------------- |
| rows' scales, rounding offsets | the same: codes of W·s that let errors cancel on the calibration pictures     |
| LET's scale s and shift δ      | the same, for which the codes are; so is what they leave in the graph         |
| zero point                     | 0: it moves codes of activations                                              |
| gains and biases               | none: they make up for rounded activations                                    |

FP8's codes of weights need none of it, as their steps are relative: every row of W where it is hit best.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from passionsr_trt.export.model.part import Part
from passionsr_trt.export.quantize.grids import Grid
from passionsr_trt.export.quantize.to_fp8 import row_scales
from passionsr_trt.export.quantize.values import PartQuant, PortQuant, SiteQuant


def to_weights_only(quant: PartQuant, parts: Iterable[Part], grid: Grid) -> PartQuant:
    """The same sites; parts: as they are before LET is folded into them."""
    if not grid.codes.are_floats:
        ports = {name: replace(port, zero_point=0) for name, port in quant.ports.items()}
        rows = {name: SiteQuant(row.scale, row.offsets) for name, row in quant.sites.items()}
        return PartQuant(ports, rows, grid)
    ports = {name: PortQuant(port.scale) for name, port in quant.ports.items()}
    rows = {
        named.name: SiteQuant(row_scales(named.site.weight.data, grid.codes))
        for part in parts
        for named in part.sites()
        if named.name in quant.sites
    }
    return PartQuant(ports, rows, grid)
