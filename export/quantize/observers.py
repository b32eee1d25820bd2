"""Observers collect; pure functions turn what they collected into a boundary u, hence a scale Δ = u/127.

The activation observer is one symmetric histogram that doubles its range when a larger value arrives
(pairs of bins merge, so nothing is approximated twice).
"""

from __future__ import annotations

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.quantize.grids import fake_quantize, per_channel
from torch import Tensor

BINS = 8192


class Histogram:
    """Counts of x over [-limit, limit] in BINS equal bins; exact minimum and maximum.

    x is counted where it is; the sum of the counts, 64 KB, is kept on the host.
    """

    def __init__(self) -> None:
        self.limit = 0.0
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.minimum, self.maximum = float("inf"), float("-inf")

    def observe(self, x: Tensor) -> None:
        x = x.detach().float()
        low, high = torch.stack(torch.aminmax(x)).cpu().tolist()
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        reach = max(abs(self.minimum), abs(self.maximum))
        if self.limit == 0.0:
            self.limit = reach or 1e-6
        self.widen(reach)
        self.counts += torch.histc(x, BINS, -self.limit, self.limit).cpu().double()

    def restart(self) -> None:
        """Forget what was counted; the bins stay."""
        self.counts.zero_()
        self.minimum, self.maximum = float("inf"), float("-inf")

    def widen(self, reach: float) -> None:
        """Double the limit until it covers `reach`."""
        while self.limit < reach:
            self._double()

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(dim=1)
        self.counts = torch.zeros_like(self.counts)
        self.counts[BINS // 4 : BINS // 4 * 3] = merged
        self.limit *= 2

    def centres(self) -> Tensor:
        """Centre of each bin, [BINS] float64."""
        step = 2 * self.limit / BINS
        return -self.limit + step * (torch.arange(BINS, dtype=torch.float64) + 0.5)


def activation_boundary(histogram: Histogram, spec: QuantSpec) -> float:
    """The symmetric boundary u > 0 that `spec.activation_observer` picks from a histogram."""
    reach = max(abs(histogram.minimum), abs(histogram.maximum), 1e-6)
    if spec.activation_observer == "minmax":
        return reach
    if spec.activation_observer == "percentile":
        magnitudes = histogram.counts[BINS // 2 :] + histogram.counts[: BINS // 2].flip(0)
        share = magnitudes.cumsum(0) / magnitudes.sum()
        index = int((share < spec.percentile / 100).sum())
        return min(reach, histogram.limit * 2 / BINS * (index + 1))
    low, high = spec.activation_codes
    return dobi_boundary(histogram, spec.dobi_candidates, low, high, reach)


def dobi_boundary(histogram: Histogram, candidates: int, low: int, high: int, reach: float) -> float:
    """argmin over u = reach·(1 − i/K) of ‖x − Q(x)‖₂ (2DQuant's DOBI, symmetric form).

    Every bin counts with its centre's error; a bin is at most 1/32 of a step of the widest candidate.
    """
    centres, counts = histogram.centres(), histogram.counts
    best, boundary = float("inf"), reach
    for index in range(candidates):
        u = reach * (1 - index / candidates)
        error = centres - fake_quantize(centres, torch.tensor(u / high, dtype=torch.float64), low, high)
        total = float((counts * error.square()).sum())
        if total < best:
            best, boundary = total, u
    return boundary


def weight_scales(weight: Tensor, spec: QuantSpec) -> Tensor:
    """Δ [O] of a weight [O, ...]: u_o / code limit, u_o per `spec.weight_observer`."""
    limit = spec.weight_code_max
    flat = weight.detach().float().flatten(1)
    reach = flat.abs().amax(dim=1).clamp_min(1e-8)
    if spec.weight_observer == "minmax":
        return reach / limit
    if spec.weight_observer == "percentile":
        boundary = torch.quantile(flat.abs(), spec.percentile / 100, dim=1).clamp_min(1e-8)
        return boundary / limit
    best = torch.full_like(reach, float("inf"))
    scales = reach / limit
    for index in range(spec.dobi_candidates):
        candidate = reach * (1 - index / spec.dobi_candidates) / limit
        error = (flat - fake_quantize(flat, per_channel(candidate, 2), -limit, limit)).square().sum(dim=1)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, candidate, scales)
    return scales
