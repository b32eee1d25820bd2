"""A calibration for INT8, brought into FP8.

FP8's steps grow with its numbers, so a far boundary costs no precision: it lies HEADROOM times as far out as
INT8's, which clips.

| INT8's                     | FP8's                                                                        |
| -------------------------- | ---------------------------------------------------------------------------- |
| boundary u of a port       | HEADROOM·u; where a shift is dropped max|δ/s| more, as the port then sees x/s |
| boundary of a weight's row | where W·s is hit best, from its largest to twice that                        |
| LET's scale s              | s                                                                            |
| LET's shift δ, zero point  | 0: a centred grid is no finer where steps are relative                       |
| rounding offsets           | none: they are of whole codes                                                |
| gains and biases           | none: they make up for INT8's errors                                         |
| known scales (signs.py)    | the same: −1, 0 and 1 are numbers of either format                           |
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from passionsr_trt.export.model.devices import HOST
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import NamedSite
from passionsr_trt.export.quantize.grids import Codes, Grid, fake_quantize
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant
from torch import Tensor

HEADROOM = 8.0  # a power of two moves no mantissa: it costs only what is smaller than 3e-5 of the boundary
CANDIDATES = 16  # boundaries of a weight's row within a factor of two; behind it the mantissas repeat
SMALLEST = 1e-12  # of a row of zeros


def to_fp8(quant: PartQuant, parts: Iterable[Part], grid: Grid) -> PartQuant:
    """The same sites with scales for a grid of FP8's codes; parts: as they are before LET is folded into them."""
    ports = {name: _port(port, quant.grid.high, grid.codes) for name, port in quant.ports.items()}
    sites = {}
    for named in (named for part in parts for named in part.sites() if named.name in quant.sites):
        known = named.site.known_scales()
        if known is not None:
            ports[named.port_name] = PortQuant(known.port).on(HOST)
            sites[named.name] = SiteQuant(known.rows).on(HOST)
            continue
        rows = _transformed(named, quant.ports.get(named.port_name))
        sites[named.name] = SiteQuant(row_scales(rows, grid.codes))
    return PartQuant(ports, sites, grid)


def _port(port: PortQuant, high: float, codes: Codes) -> PortQuant:
    """high: of the codes that it has a scale for. max|δ/s| is how much further from 0 x/s lies than x̃."""
    boundary = port.scale * high * HEADROOM
    shift = port.shift()
    if port.let is None or shift is None:
        return PortQuant(boundary / codes.high)
    further = (shift / port.let.scale).abs().max()
    return PortQuant((boundary + further) / codes.high, let=Let(port.let.scale, torch.zeros_like(shift)))


def row_scales(weight: Tensor, codes: Codes) -> Tensor:
    """Δ [O] of a weight [O, ...]: of CANDIDATES boundaries from the row's largest up, argmin ‖w − Q(w)‖₂."""
    rows = weight.float().flatten(1)
    least = rows.abs().amax(1, keepdim=True).clamp_min(SMALLEST) / codes.high
    best = torch.full_like(least, float("inf"))
    scales = least
    for index in range(CANDIDATES):
        scale = least * 2 ** (index / CANDIDATES)
        error = (rows - fake_quantize(rows, scale, codes.low, codes.high, codes)).square().sum(1, keepdim=True)
        scales, best = torch.where(error < best, scale, scales), torch.minimum(error, best)
    return scales.flatten()


def _transformed(named: NamedSite, port: PortQuant | None) -> Tensor:
    """W·s, which LET's fold will make of a weight."""
    weight = named.site.weight.data
    if port is None or port.let is None or port.let.scale.shape != weight.shape[1:2]:
        return weight  # `fold` refuses what does not fit
    return weight * named.site.along_inputs(port.let.scale)
