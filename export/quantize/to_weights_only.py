"""A calibration for INT8, brought into codes of weights alone: activations stay float.

| INT8's                        | W8's                                                                         |
| ----------------------------- | ---------------------------------------------------------------------------- |
| rows' scales, rounding offsets | the same: codes of W̃ = W·s that let errors cancel on the calibration pictures |
| LET's scale s                 | s, for which the codes are                                                   |
| LET's shift δ, zero point     | none; what the rounded weights make of it, (W̃ − Ŵ)·δ/s, goes into the bias   |
| gains and biases              | none: they make up for rounded activations                                   |

FP8's codes of weights need none of it, as their steps are relative: every row of W where it is hit best.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import NamedSite
from passionsr_trt.export.quantize.grids import Grid, per_channel, weight_codes
from passionsr_trt.export.quantize.to_fp8 import row_scales
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant
from torch import Tensor


def to_weights_only(quant: PartQuant, parts: Iterable[Part], grid: Grid) -> PartQuant:
    """The same sites; parts: as they are before LET is folded into them."""
    known = [named for part in parts for named in part.sites() if named.name in quant.sites]
    if grid.codes.are_floats:
        ports = {name: PortQuant(port.scale) for name, port in quant.ports.items()}
        rows = {named.name: SiteQuant(row_scales(named.site.weight.data, grid.codes)) for named in known}
        return PartQuant(ports, rows, grid)
    ports = {name: PortQuant(port.scale, let=_unshifted(port)) for name, port in quant.ports.items()}
    rows = {
        named.name: _row(named, quant.sites[named.name], quant.ports.get(named.port_name), grid) for named in known
    }
    return PartQuant(ports, rows, grid)


def _unshifted(port: PortQuant) -> Let | None:
    return None if port.let is None else Let(port.let.scale, torch.zeros_like(port.let.shift))


def _row(named: NamedSite, quant: SiteQuant, port: PortQuant | None, grid: Grid) -> SiteQuant:
    """Scale and offsets; with a shift also the bias that the rounded weights need without it."""
    plain, site = SiteQuant(quant.scale, quant.offsets), named.site
    shift = None if port is None else port.shift()
    if port is None or port.let is None or shift is None or not bool(shift.any()):
        return plain
    if (port.let.scale.shape, quant.scale.shape) != ((site.in_channels,), site.weight.shape[:1]):
        return plain  # `fold` refuses what does not fit
    weight = site.weight.data.float() * site.along_inputs(port.let.scale)
    codes = weight_codes(weight, quant.scale, grid.limit, quant.rounding_offsets(weight.shape), grid.codes)
    lost = weight.double() - codes.double() * per_channel(quant.scale, weight.dim())
    moved: Tensor = (lost * site.along_inputs((shift / port.let.scale).double())).flatten(1).sum(dim=1)
    return SiteQuant(quant.scale, quant.offsets, bias=moved.float())
