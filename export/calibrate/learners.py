"""LBQ and LET as they are learned: boundaries, scales and shifts with straight-through gradients.

LBQ:  Q(x) = Δ·clamp(round(x/Δ), low, high), Δ = u/high.  With the rounding passed straight through,
      ∂Q/∂u = code/high − x/u inside the boundary and code/high outside it (PassionSR's gradients, symmetric).
LET:  x̃ = (x − δ)/s,  W̃ = W·s,  B̃ = B + W·δ.

A port with a zero point a is shifted so that x = 0 has the code −a, whatever s and u become: δ = s·a·Δ. That
amounts to codes low + a to high + a of x/s, which is what is learned: nothing is shifted, and zero padding stays
zero. What rounded weights make of the shift goes into the sites' biases (export/quantize/fold.py).

Everything is learned relative to where it starts: log s, log u, and δ in units of its channel's span, so one
learning rate fits tensors of every magnitude. While `following`, boundaries are not parameters: they follow
the transformed range of what the search found worth covering.
"""

from __future__ import annotations

from typing import Any

import torch
from passionsr_trt.export.model.sites import Site
from passionsr_trt.export.quantize.grids import per_channel, quantize
from torch import Tensor, nn

BIAS_UNIT = 0.1


class _Quantize(torch.autograd.Function):
    """Q(x) and its gradients. Kept for the backward pass: x itself and the codes, a byte each, nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        codes = quantize(x, step, low, high)
        ctx.save_for_backward(x, step, codes.to(torch.int8 if high < 128 else torch.uint8))
        ctx.limits = (low, high)
        return codes.mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x, step, stored = ctx.saved_tensors
        low, high = ctx.limits
        scaled = x / step
        rounded = torch.round(scaled)
        inside = (rounded >= low) & (rounded <= high)
        of_x = gradient * inside if ctx.needs_input_grad[0] else None
        of_step = None
        if ctx.needs_input_grad[1]:
            of_step = (gradient * (stored - scaled * inside)).sum_to_size(step.shape)
        return of_x, of_step, None, None


def learned_quantize(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """Q(x) with gradients for x and for Δ = `step`, which broadcasts against x."""
    if not torch.is_grad_enabled():
        return quantize(x, step, low, high).mul_(step)
    result: Tensor = _Quantize.apply(x, step, low, high)
    return result


def reach(weight: Tensor) -> Tensor:
    """max|W| of every row [O], more than 0."""
    rows = weight.flatten(1)
    return torch.maximum(rows.amax(dim=1), -rows.amin(dim=1)).clamp_min(1e-8)


class LearnedPort(nn.Module):
    """s, δ and u of one port of C channels; `begin` gives them their start."""

    lows: Tensor
    highs: Tensor
    base_scale: Tensor
    base_shift: Tensor
    base_boundary: Tensor

    def __init__(
        self,
        channels: int,
        codes: tuple[int, int],
        dims: int,
        may_scale: bool = True,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        # what is asked at every step is kept where Python asks: on a GPU a tensor's answer is waited for
        self.following, self.may_scale, self.shifted, self.zero_point = True, may_scale, False, 0
        self.low, self.high = codes
        self.shape = [1, -1, 1, 1] if dims == 4 else [-1]
        for name in ("lows", "highs", "base_shift"):
            self.register_buffer(name, torch.zeros(channels, device=device))
        self.register_buffer("base_scale", torch.ones(channels, device=device))
        self.register_buffer("base_boundary", torch.ones((), device=device))
        self.log_scale = nn.Parameter(torch.zeros(channels, device=device))
        self.shift_spans = nn.Parameter(torch.zeros(channels, device=device))
        self.log_boundary = nn.Parameter(torch.zeros((), device=device))

    def begin(self, lows: Tensor, highs: Tensor, scale: Tensor, shift: Tensor, zero_point: int = 0) -> LearnedPort:
        """lows, highs [C]: the range of each channel that is to be covered; scale [C] > 0; shift [C] or all 0;
        zero_point: a, 0 where the port has none."""
        self.lows, self.highs, self.base_scale, self.base_shift = lows, highs, scale, shift
        self.shifted, self.zero_point = bool(shift.any()), zero_point
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.following, self.may_scale, self.shifted, self.zero_point], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        *flags, self.zero_point = state.tolist()
        self.following, self.may_scale, self.shifted = map(bool, flags)

    def s(self) -> Tensor:
        return self.base_scale * torch.exp(self.log_scale)

    def delta(self) -> Tensor:
        if not self.shifted:
            return self.base_shift
        return self.base_shift + self.shift_spans * (self.highs - self.lows)

    def boundary(self) -> Tensor:
        """u of the transformed tensor, a scalar."""
        if not self.following:
            return self.base_boundary * torch.exp(self.log_boundary)
        delta = self.delta()
        reach = torch.maximum(self.highs - delta, delta - self.lows)
        if self.zero_point:
            reach = self.highs * self.high / (self.high + self.zero_point)
        return (reach / self.s()).amax().clamp_min(1e-6)

    def step(self) -> Tensor:
        """Δ, a scalar."""
        return self.boundary() / self.high

    def freeze_boundary(self) -> None:
        """From now on u is a parameter that starts where it stands."""
        self.base_boundary = self.boundary().detach().clone()
        self.following = False

    def transform(self, x: Tensor) -> Tensor:
        """x̃."""
        x = x - self.delta().reshape(self.shape) if self.shifted else x
        return x / self.s().reshape(self.shape)

    def quantize(self, x: Tensor) -> Tensor:
        """Q of a transformed x."""
        return learned_quantize(x, self.step(), self.low + self.zero_point, self.high + self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        return self.quantize(self.transform(x))

    def weight(self, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """W̃; `out`: where it is written, without gradients."""
        s = self.s().reshape([1, -1] + [1] * (weight.dim() - 2))
        return weight * s if out is None else torch.mul(weight, s, out=out)

    def bias(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """B̃."""
        if not self.shifted:
            return bias
        delta = self.delta().reshape([1, -1] + [1] * (weight.dim() - 2))
        moved = (weight * delta).flatten(1).sum(dim=1)
        return moved if bias is None else bias + moved


class LearnedSite(nn.Module):
    """u [O] of one site's weight, and what is added to its bias, in units."""

    base_boundary: Tensor
    unit: Tensor

    def __init__(self, channels: int, limit: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.limit, self.following = limit, True
        self.log_boundary = nn.Parameter(torch.zeros(channels, device=device))
        self.bias_units = nn.Parameter(torch.zeros(channels, device=device))
        self.register_buffer("base_boundary", torch.ones(channels, device=device))
        self.register_buffer("unit", torch.zeros(channels, device=device))

    def begin_bias(self, step: Tensor, weight: Tensor) -> None:
        """The bias is learned in units of BIAS_UNIT of what one step Δ of the input is in a row's output,
        Δ·‖W̃‖₂: an error that all positions share shows more than noise of its size."""
        self.unit = (BIAS_UNIT * step * weight.flatten(1).norm(dim=1)).detach()

    def added_bias(self) -> Tensor:
        """[O], to be added to the site's own bias."""
        return self.bias_units * self.unit

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.following, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.following = bool(state)

    def boundary(self, weight: Tensor) -> Tensor:
        """[O] of a weight, transformed."""
        if self.following:
            return reach(weight)
        return self.base_boundary * torch.exp(self.log_boundary)

    def freeze_boundary(self, weight: Tensor) -> None:
        """From now on u is a parameter that starts at the range of `weight`, transformed."""
        self.base_boundary = self.boundary(weight).detach().clone()
        self.following = False

    def quantize(self, weight: Tensor) -> Tensor:
        """Q of a transformed weight."""
        step = self.boundary(weight) / self.limit
        return learned_quantize(weight, per_channel(step, weight.dim()), -self.limit, self.limit)

    def forward(self, site: Site) -> tuple[Tensor, Tensor | None]:
        """Q(W̃) and B̃ with what is learned; a site without a bias gets none of it."""
        port: LearnedPort = site.port.quantizer
        weight, bias = self.quantize(port.weight(site.weight)), port.bias(site.weight, site.bias)
        return weight, bias if bias is None or site.bias is None else bias + self.added_bias()


class Paused(nn.Module):
    """Stands for a learner where the float model runs; the learner stays where its block is, on any device."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, given: Any) -> Any:
        """x of a port; a site's own weight and bias."""
        return (given.weight, given.bias) if isinstance(given, Site) else given


def learned_ports(module: nn.Module) -> list[LearnedPort]:
    return [inner for inner in module.modules() if isinstance(inner, LearnedPort)]


def learned_sites(module: nn.Module) -> list[tuple[Site, LearnedSite]]:
    """Sites with their learners, in module order."""
    sites = (inner for inner in module.modules() if isinstance(inner, Site))
    return [(site, site.quantizer) for site in sites if isinstance(site.quantizer, LearnedSite)]


def learners_of(part: nn.Module) -> nn.ModuleList:
    """Everything that learns, in module order: what is saved and restored."""
    return nn.ModuleList(inner for inner in part.modules() if isinstance(inner, (LearnedPort, LearnedSite)))
