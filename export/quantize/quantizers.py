"""What is attached to sites and ports (export/model/hooks.py) so that they compute with a quantization.

| attached          | port(x)                                     | weight of a site                  |
| ----------------- | ------------------------------------------- | --------------------------------- |
| nothing           | x                                           | float                             |
| fake_quantizers   | Δ·nearest(clamp(x̃/Δ))                       | gain·Δ·codes of W̃, as float       |
| emit              | QuantizeLinear → DequantizeLinear           | codes → DequantizeLinear          |
| learned (export/calibrate/learners.py) | as the fake one, with gradients | as the fake one, with gradients |

A site whose port has no row is float in all of them. Where weights alone are in codes ports stay float.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import NamedSite, Port, Site, data_of, named_operands, named_sites
from passionsr_trt.export.quantize.grids import Grid, fake_quantize, per_channel, weight_codes
from passionsr_trt.export.quantize.values import PartQuant, PortQuant, SiteQuant
from torch import Tensor, nn


class Scratch:
    """float32 room for large tensors that are used up before the next are made; it grows to what was asked for.

    A fresh tensor of a weight's size costs more than what is computed in it: the system clears every page.
    """

    def __init__(self) -> None:
        self.room: Tensor | None = None

    def take(self, shapes: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
        """Contiguous tensors of these shapes, with whatever stands in them."""
        sizes = [math.prod(shape) for shape in shapes]
        if self.room is None or self.room.device != device or self.room.numel() < sum(sizes):
            self.room = None  # the old one goes first
            self.room = torch.empty(sum(sizes), device=device)
        pieces = self.room[: sum(sizes)].split(sizes)
        return [piece.view(*shape) for piece, shape in zip(pieces, shapes, strict=True)]


class FakePort(nn.Module):
    """Q(x̃); LET is applied where it is not folded yet."""

    scale: Tensor
    let_scale: Tensor | None
    let_shift: Tensor | None

    def __init__(self, quant: PortQuant, grid: Grid, site: Site | None) -> None:
        """site: one that reads the port; None for an operand."""
        super().__init__()
        self.codes = grid.codes
        self.low, self.high = grid.low + quant.zero_point, grid.high + quant.zero_point
        shape = [1, -1, 1, 1] if site is not None and site.kind == "conv" else [-1]
        let = quant.let
        shift = None if let is None or not bool(let.shift.any()) else let.shift.reshape(shape)
        self.register_buffer("scale", quant.scale)
        self.register_buffer("let_scale", None if let is None else let.scale.reshape(shape))
        self.register_buffer("let_shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        x = self._transformed(x)
        return fake_quantize(x, self.scale.to(x.dtype), self.low, self.high, self.codes)

    def clipped(self, x: Tensor) -> float:
        """The share of x̃ that lies further beyond the outermost codes than what rounds to them."""
        codes, half = self._transformed(x) / self.scale, self.codes.info.half_step
        beyond = (codes > self.high + half) | (codes < self.low - half)
        return int(beyond.count_nonzero()) / beyond.numel()

    def _transformed(self, x: Tensor) -> Tensor:
        """x̃"""
        x = x if self.let_shift is None else x - self.let_shift
        return x if self.let_scale is None else x / self.let_scale


class FakeSite(nn.Module):
    """Codes of W̃ [O, ...], a byte each, quantized once; what they are worth [O]; the bias. Without gradients."""

    codes: Tensor
    worth: Tensor
    bias: Tensor | None

    def __init__(self, site: Site, quant: SiteQuant, port: PortQuant, grid: Grid, scratch: Scratch) -> None:
        super().__init__()
        self.scratch, weight, bias = scratch, site.weight, transformed_bias(site, port)
        if port.let is not None:
            (room,) = scratch.take([weight.shape], weight.device)
            weight = torch.mul(weight, site.along_inputs(port.let.scale), out=room)  # type: ignore[assignment]
        offsets = quant.rounding_offsets(weight.shape)
        self.register_buffer("codes", weight_codes(weight, quant.scale, grid.limit, offsets, grid.codes))
        self.register_buffer("worth", per_channel(quant.code_worth(), weight.dim()))
        self.register_buffer("bias", _sum(bias, quant.bias))

    def forward(self, _site: Site) -> tuple[Tensor, Tensor | None]:
        """The weight stands until the next one is asked for."""
        (room,) = self.scratch.take([self.codes.shape], self.codes.device)
        return room.copy_(self.codes).mul_(self.worth), self.bias

    def add_offsets(self, offsets: Tensor, limit: float) -> None:
        """Move codes that were rounded to the nearest."""
        wider = self.codes.to(torch.int16).add_(offsets)  # 127 and an offset of 1 are no int8
        self.codes.copy_(wider.clamp_(-int(limit), int(limit)))


def transformed_bias(site: Site, port: PortQuant) -> Tensor | None:
    """B + W·δ."""
    if port.let is None or not bool(port.let.shift.any()):
        return data_of(site.bias)
    moved = (site.weight.data * site.along_inputs(port.let.shift)).flatten(1).sum(dim=1)
    return _sum(data_of(site.bias), moved)


@torch.no_grad()
def fake_quantizers(part: Part, quant: PartQuant) -> dict[Port | Site, nn.Module]:
    """What is attached to a part so that it computes in float with the numbers that its codes stand for."""
    scratch, grid = Scratch(), quant.grid
    attached: dict[Port | Site, nn.Module] = {}
    for named in part.sites():
        if named.name in quant.sites:
            site, port = named.site, quant.ports[named.port_name].on(named.site.weight.device)
            attached[site] = FakeSite(site, quant.sites[named.name].on(site.weight.device), port, grid, scratch)
            if site.port not in attached and not grid.codes.info.weights_only:
                attached[site.port] = FakePort(port, grid, site)
    for name, operand in part.operands().items():
        if name in quant.ports and not grid.codes.info.weights_only:
            attached[operand] = FakePort(quant.ports[name].on(part.device), grid, None)
    return attached


class EmittedPort(nn.Module):
    """The port's QuantizeLinear and DequantizeLinear; scale and zero point are initializers of the port's name."""

    def __init__(self, port: Port, quant: PortQuant, grid: Grid) -> None:
        super().__init__()
        assert quant.let is None, "LET is folded first"
        self.grid, codes = grid, grid.codes
        self.limits: tuple[float, float] | None = None
        if (grid.low, grid.high) != (codes.low, codes.high):
            self.limits = grid.low * float(quant.scale), grid.high * float(quant.scale)
        port.register_buffer("scale", quant.scale)
        port.register_buffer("zero", torch.zeros((), dtype=grid.codes.dtype, device=quant.scale.device))
        self.port: Any = (port,)  # no child: it is the parent

    def forward(self, x: Tensor) -> Tensor:
        codes = self.grid.codes
        if self.limits is not None:
            x = torch.clamp(x, *self.limits)  # INT8 container, fewer codes: the clip is what makes them fewer
        (port,) = self.port
        scale, zero = port.scale.to(x.dtype), port.zero
        x_codes = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, scale, zero), dtype=codes.dtype, shape=x.shape, version=19
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (x_codes, scale, zero), dtype=x.dtype, shape=x.shape, version=19
        )


class EmittedSite(nn.Module):
    """The site's initializers, `stored` [K, N] of a linear, and the DequantizeLinear of a quantized one."""

    def __init__(self, site: Site, quant: SiteQuant | None, grid: Grid) -> None:
        super().__init__()
        stored, worth, zeros = site.weight.data, None, None
        self.quantized, self.is_linear = quant is not None, site.kind == "linear"
        if quant is not None:
            site.assign(stored, _sum(data_of(site.bias), quant.bias))
            offsets = quant.rounding_offsets(stored.shape)
            stored = weight_codes(stored.float(), quant.scale, grid.limit, offsets, grid.codes)
            worth = quant.code_worth()
            zeros = torch.zeros_like(worth, dtype=grid.codes.dtype)
        site.register_buffer("weight_scale", worth)
        site.register_buffer("stored", stored.t().contiguous() if self.is_linear else stored)
        site.register_buffer("weight_zeros", zeros)

    def forward(self, site: Any) -> tuple[Tensor, Tensor | None]:
        if not self.quantized:
            return site.stored if self.is_linear else site.weight, site.bias
        weight = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (site.stored, site.weight_scale.to(site.weight.dtype), site.weight_zeros),
            attrs={"axis": 1 if self.is_linear else 0},
            dtype=site.weight.dtype,
            shape=site.stored.shape,
            version=19,
        )
        return weight, site.bias


@torch.no_grad()
def export_twin(
    part: Part, quant: PartQuant, precision: torch.dtype = torch.float32, consume: bool = False
) -> nn.Module:
    """A shallow copy of a part that makes a graph of Q/DQ: weights are shared, buffers and types are its own.

    precision: of all but the first and the last site, and what lies beyond them. consume: weights of the part
    itself are let go on the way.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in part.module.parameters()}
    twin = copy.deepcopy(part.module, memo)
    memo.clear()
    ends = part.first_and_last
    sites = list(named_sites(twin, part.name))
    if not quant.grid.codes.info.weights_only:
        _emit_ports(twin, part.name, sites, quant)
    if precision != torch.float32:
        next(named.site for named in sites if named.name == ends[0]).out_dtype = precision
        for module in twin.modules():
            if not isinstance(module, Site):
                bring_own(module, precision)
    for original, named in zip(part.sites(), sites, strict=True):
        site = named.site
        site.quantizer = EmittedSite(site, quant.sites.get(named.name), quant.grid)
        if named.name not in ends:  # behind it: codes are the same in every precision
            bring_own(site, precision)
        if named.name in quant.sites or site.kind == "linear":
            # the stored initializer replaces the weight; keep the type that decides casts
            site.weight = _without_values(site.weight)
        if consume:
            original.site.weight = _without_values(original.site.weight)
    return twin


def _emit_ports(twin: nn.Module, part_name: str, sites: Sequence[NamedSite], quant: PartQuant) -> None:
    for named in sites:
        if named.name in quant.sites and named.site.port.quantizer is None:
            port = named.site.port
            port.quantizer = EmittedPort(port, quant.ports[named.port_name], quant.grid)
    for name, operand in named_operands(twin, part_name).items():
        if name in quant.ports:
            operand.quantizer = EmittedPort(operand, quant.ports[name], quant.grid)


def bring_own(module: nn.Module, precision: torch.dtype) -> None:
    """A module's own parameters and the buffers that it calls weights, to a precision; codes stay."""
    if precision == torch.float32:
        return
    for key, parameter in list(module.named_parameters(recurse=False)):
        if parameter.dtype == torch.float32:
            setattr(module, key, nn.Parameter(parameter.to(precision), requires_grad=False))
    for key in getattr(module, "weight_buffers", ()):
        buffer = module._buffers.get(key)
        if buffer is not None and buffer.dtype == torch.float32:
            module._buffers[key] = buffer.to(precision)


def _sum(bias: Tensor | None, more: Tensor | None) -> Tensor | None:
    if bias is None or more is None:
        return more if bias is None else bias
    return bias + more


def _without_values(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device="meta"), requires_grad=False)
