"""LET folded into a part under proof: the same float part, and its quantization without LET.

1. s and δ of a port, with what its zero point shifts it by, go into its sites and its absorber (absorb.py);
2. an absorber whose rows are divided by s takes its own scales and biases along;
3. what rounded weights make of a zero point's shift a·Δ goes into the sites' biases, once all is folded.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.absorb import fold_port
from passionsr_trt.export.model.part import Part, Tensors
from passionsr_trt.export.model.proof import prove
from passionsr_trt.export.model.sites import NamedSite, Site, group_ports
from passionsr_trt.export.quantize.grids import Grid, per_channel, weight_codes
from passionsr_trt.export.quantize.values import PartQuant, PortQuant, SiteQuant
from torch import Tensor


@torch.no_grad()
def fold(part: Part, quant: PartQuant, probe: Tensors | None = None) -> PartQuant:
    """Change the part's weights; returns what stays to be attached to it.

    probe: tensors for the part; with them FoldError names the port after whose fold the float output is no longer
    the same. UserError for the quantization of another part.
    """
    check_fits(part, quant)
    quant, absorbers = quant.on(part.device), part.absorbers()
    names = {named.site: named.name for named in part.sites()}
    sites = {name: quant.sites[name] for name in names.values() if name in quant.sites}
    groups = group_ports(named for named in part.sites() if named.name in sites)
    learned = any(quant.ports[port_name].let is not None for port_name in groups)
    reference = part.run(probe) if probe is not None and learned else None
    for port_name, group in groups.items():
        port = quant.ports[port_name]
        shift = port.shift()
        if port.let is None or shift is None:
            continue
        absorber = absorbers.get(group[0].site.port)
        fold_port(group, absorber, port.let.scale.double(), shift.double())
        rows = None if absorber is None else absorber.rows
        if rows is not None and (name := names[rows]) in sites:
            sites[name] = _divided(sites[name], rows.per_row(port.let.scale.double()))
        if probe is not None and reference is not None:
            prove(port_name, reference, part.run(probe))
    for port_name, group in groups.items():
        if quant.ports[port_name].zero_point:
            for named in group:
                row, port = sites[named.name], quant.ports[port_name]
                sites[named.name] = _without_zero_point(named.site, row, port, quant.grid)
    return replace(quant, ports={name: PortQuant(port.scale) for name, port in quant.ports.items()}, sites=sites)


def _divided(quant: SiteQuant, scales: Tensor) -> SiteQuant:
    """Of a site whose first len(scales) rows were divided by them, float64."""

    def divided(values: Tensor) -> Tensor:
        values = values.double().clone()
        values[: len(scales)] /= scales
        return values.float()

    return replace(quant, scale=divided(quant.scale), bias=None if quant.bias is None else divided(quant.bias))


def _without_zero_point(site: Site, quant: SiteQuant, port: PortQuant, grid: Grid) -> SiteQuant:
    """b + (Ŵ − W)·a·Δ summed over each row: what the rounded weight makes of the folded zero point."""
    offsets = quant.rounding_offsets(site.weight.shape)
    codes = weight_codes(site.weight, quant.scale, grid.limit, offsets, grid.codes)
    rounded = codes.to(site.weight.dtype) * per_channel(quant.code_worth(), site.weight.dim())
    moved = (rounded - site.weight).double().flatten(1).sum(dim=1) * port.zero_point * port.scale
    own = 0.0 if quant.bias is None else quant.bias
    return replace(quant, bias=(own + moved).float())


def check_fits(part: Part, quant: PartQuant) -> None:
    """UserError where rows are not of this part's sites, or hold what cannot be."""
    for named in part.sites():
        if named.name not in quant.sites:
            continue
        site, port = quant.sites[named.name], quant.ports.get(named.port_name)
        if port is None or site.scale.shape != named.site.weight.shape[:1]:
            raise UserError(f"calibration: {named.name} does not fit this model", "expected its own model's")
        if not (torch.all(site.scale > 0) and port.scale > 0):
            raise UserError(f"calibration: {named.name} has a scale that is not positive")
        _check_rows(named, site)
        if port.let is not None:
            channels = (named.site.in_channels,)
            if not (port.let.scale.shape == port.let.shift.shape == channels and torch.all(port.let.scale > 0)):
                raise UserError(
                    f"calibration: {named.port_name}'s LET does not fit", "expected one positive per channel"
                )


def _check_rows(named: NamedSite, quant: SiteQuant) -> None:
    """The values of rows, one a row, and the offsets of a site."""
    shape = named.site.weight.shape
    for what, values in (("gain", quant.gain), ("bias", quant.bias)):
        if values is not None and (values.shape != shape[:1] or not torch.all(values.isfinite())):
            raise UserError(f"calibration: {named.name}.{what} does not fit", "expected one number per row")
    if quant.gain is not None and not torch.all(quant.gain > 0):
        raise UserError(f"calibration: {named.name} has a gain that is not positive")
    if quant.offsets is not None and quant.rounding_offsets(shape) is None:
        raise UserError(f"calibration: {named.name}.rounding_offsets does not fit", "expected its own")
