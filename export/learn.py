"""LBQ and LET as they are learned: boundaries, scales and shifts with straight-through gradients.

LBQ:  Q(x) = Δ·clamp(round(x/Δ), low, high), Δ = u/high.  With the rounding passed straight through,
      ∂Q/∂u = code/high − x/u inside the boundary and code/high outside it (PassionSR's gradients, symmetric).
LET:  x̃ = (x − δ)/s,  W̃ = W·s,  B̃ = B + W·δ.

Everything is learned relative to where it starts: log s, log u, and δ in units of its channel's span, so one
learning rate fits tensors of every magnitude. While `following`, boundaries are not parameters: they follow
the range of the transformed tensor, times the ratio their search found.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def round_through(x: Tensor) -> Tensor:
    """round(x) with the gradient of x."""
    return x + (torch.round(x) - x).detach()


def learned_quantize(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """Q(x) with gradients for x and for Δ = `step`, which broadcasts against x."""
    return torch.clamp(round_through(x / step), low, high) * step


class LearnedPort(nn.Module):
    """s, δ and u of one port. lows, highs [C]: the observed range of each channel."""

    def __init__(
        self,
        lows: Tensor,
        highs: Tensor,
        scale: Tensor,
        shift: Tensor,
        ratio: float,
        codes: tuple[int, int],
        dims: int,
    ) -> None:
        super().__init__()
        self.low, self.high, self.ratio = *codes, ratio
        self.shape = [1, -1, 1, 1] if dims == 4 else [-1]
        self.following = True
        self.shifted = bool(shift.any())
        for name, value in (("lows", lows), ("highs", highs), ("base_scale", scale), ("base_shift", shift)):
            self.register_buffer(name, value)
        self.log_scale = nn.Parameter(torch.zeros_like(scale))
        self.shift_spans = nn.Parameter(torch.zeros_like(shift))
        self.log_boundary = nn.Parameter(torch.zeros(()))
        self.register_buffer("base_boundary", torch.ones(()))

    def s(self) -> Tensor:
        return self.get_buffer("base_scale") * torch.exp(self.log_scale)

    def delta(self) -> Tensor:
        base = self.get_buffer("base_shift")
        if not self.shifted:
            return base
        return base + self.shift_spans * (self.get_buffer("highs") - self.get_buffer("lows"))

    def boundary(self) -> Tensor:
        """u of the transformed tensor, a scalar."""
        if not self.following:
            return self.get_buffer("base_boundary") * torch.exp(self.log_boundary)
        delta = self.delta()
        reach = torch.maximum(self.get_buffer("highs") - delta, delta - self.get_buffer("lows"))
        return (reach / self.s()).amax().clamp_min(1e-6) * self.ratio

    def freeze_boundary(self, boundary: Tensor) -> None:
        """From now on u is a parameter that starts at `boundary`."""
        self.base_boundary = boundary.detach().clone()
        self.following = False

    def transform(self, x: Tensor) -> Tensor:
        x = x - self.delta().reshape(self.shape) if self.shifted else x
        return x / self.s().reshape(self.shape)

    def quantize(self, x: Tensor) -> Tensor:
        return learned_quantize(x, self.boundary() / self.high, self.low, self.high)

    def weight(self, weight: Tensor) -> Tensor:
        return weight * self.s().reshape([1, -1] + [1] * (weight.dim() - 2))

    def bias(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        if not self.shifted:
            return bias
        delta = self.delta().reshape([1, -1] + [1] * (weight.dim() - 2))
        moved = (weight * delta).flatten(1).sum(dim=1)
        return moved if bias is None else bias + moved


class LearnedWeight(nn.Module):
    """u [O] of one site's weight."""

    def __init__(self, channels: int, limit: int) -> None:
        super().__init__()
        self.limit, self.following = limit, True
        self.log_boundary = nn.Parameter(torch.zeros(channels))
        self.register_buffer("base_boundary", torch.ones(channels))

    def boundary(self, weight: Tensor) -> Tensor:
        if self.following:
            return weight.flatten(1).abs().amax(dim=1).clamp_min(1e-8)
        return self.get_buffer("base_boundary") * torch.exp(self.log_boundary)

    def freeze_boundary(self, boundary: Tensor) -> None:
        self.base_boundary = boundary.detach().clone()
        self.following = False

    def forward(self, weight: Tensor) -> Tensor:
        step = self.boundary(weight).reshape([-1] + [1] * (weight.dim() - 1)) / self.limit
        return learned_quantize(weight, step, -self.limit, self.limit)
