"""Which sites a spec quantizes: those that are calibrated, and those whose scales are known."""

from __future__ import annotations

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.devices import HOST
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import NamedSite, Operand
from passionsr_trt.export.quantize.grids import Grid
from passionsr_trt.export.quantize.values import PartQuant, PortQuant, SiteQuant


def quantized_operands(part: Part, spec: QuantSpec) -> dict[str, Operand]:
    """The factors of attention's products that the spec quantizes; UserError where a part has none of them."""
    operands = part.operands() if spec.attention else {}
    if spec.attention and not operands:
        raise UserError(
            f"spec: attention, but {part.name} has no product of attention that can be quantized",
            "expected an image network with windows (SwinIR, HAT, DAT, CRAFT)",
        )
    return {name: operand for name, operand in operands.items() if not spec.excludes(name)}


def quantized_sites(part: Part, spec: QuantSpec) -> list[NamedSite]:
    """The sites of a part that the spec quantizes, and that have to be calibrated for it.

    0. sites whose scales are known lose nothing: `known_rows`;
    1. a site that `exclude` matches stays float;
    2. the first and the last site of the part, both convolutions, stay float (keep_first_last);
    3. convolutions with fewer than min_channels inputs stay float;
    4. sites that share a port are quantized together or not at all.
    """
    sites = [named for named in part.sites() if named.site.known_scales() is None]
    ends = part.first_and_last if spec.keep_first_last else ()
    float_sites = {
        named.name
        for named in sites
        if spec.excludes(named.name) or named.name in ends or named.site.in_channels < spec.min_channels
    }
    float_ports = {named.port_name for named in sites if named.name in float_sites}
    return [named for named in sites if named.port_name not in float_ports]


def known_rows(part: Part, spec: QuantSpec) -> PartQuant:
    """The rows of sites whose scales are known, but for those that `exclude` matches."""
    ports, sites = {}, {}
    for named in part.sites():
        scales = named.site.known_scales()
        if scales is not None and not spec.excludes(named.name):
            ports[named.port_name], sites[named.name] = PortQuant(scales.port), SiteQuant(scales.rows)
    return PartQuant(ports, sites, Grid.of(spec)).on(HOST)
