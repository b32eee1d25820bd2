"""Where learning starts: for every port alone, the LET and the boundary ratio of least output error.

Candidates:
- α of s_j = max|x_j|^α / max|W_j|^(1−α) (SmoothQuant), or s = 1;
- how x is shifted (Shift);
- what u covers, a share of the range on either side of 0, so that a ReLU's 0 stays a code: 2DQuant's two-sided
  search. Of what is bounded below (after ReLU, GELU, SiLU) only the high side shrinks: its one-sided search.

Error (export/calibrate/attempts.py): ‖W·x − Q(W̃)·Q(x̃)‖² over the port's sites, on real inputs, without each output
channel's mean error, which an output bias takes away for nothing.
SmoothQuant itself is the one candidate (smooth_alpha, no shift, full range).
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.distributed import extremes, size
from passionsr_trt.export.calibrate.learn import LearnedPort
from passionsr_trt.export.quantize.sites import NamedSite, Port, SiteConv
from torch import Tensor

ALPHAS = (None, 0.4, 0.7)
SHARES = (1.0, 0.85, 0.7, 0.55)
LEAST = -0.28  # of SiLU, lower than GELU's


class Shift(enum.Enum):
    """Where a port's zero goes."""

    NONE = "stays"
    CENTRE = "each channel's range is centred; padding is shifted with it"
    ANCHOR = "0 has an outer code, for tensors that are bounded below: one bit more (learn.py, anchored)"


Candidate = tuple[float | None, Shift, float]  # α or None for s = 1; shift; the boundary's share of the range


@dataclass
class PortSearch:
    """One port with its sites; ranges are filled by the first pass, errors by the second."""

    name: str
    sites: list[NamedSite]
    may_scale: bool
    may_shift: bool
    scale_is_free: bool = True
    shift_is_free: bool = True
    lows: Tensor | None = None
    highs: Tensor | None = None
    errors: dict[Candidate, float] = field(default_factory=dict)
    sizes: Tensor | None = None  # max|W_j|, once it was asked for

    @property
    def port(self) -> Port:
        return self.sites[0].site.port

    def observe(self, x: Tensor) -> None:
        axes = (0, 2, 3) if x.dim() == 4 else tuple(range(x.dim() - 1))
        low, high = x.amin(axes), x.amax(axes)
        self.lows = low if self.lows is None else torch.minimum(self.lows, low)
        self.highs = high if self.highs is None else torch.maximum(self.highs, high)

    @property
    def bounded_below(self) -> bool:
        """True after ReLU (0), GELU (−0.17) or SiLU (−0.28), where the high side goes further."""
        assert self.lows is not None and self.highs is not None
        low, high = float(self.lows.min()), float(self.highs.max())
        return low >= LEAST and high > -4 * min(low, 0)

    def begin(self, learner: LearnedPort, candidate: Candidate) -> LearnedPort:
        """Start a learner at a candidate."""
        alpha, shift, share = candidate
        assert self.lows is not None and self.highs is not None
        least, most = self.lows.to(learner.lows.device), self.highs.to(learner.lows.device)
        lows, highs = least * (1.0 if self.bounded_below else share), most * share
        delta = (lows + highs) / 2 if shift is Shift.CENTRE else torch.zeros_like(lows)
        scale = torch.ones_like(delta)
        if alpha is not None:
            reach = torch.maximum(highs - delta, delta - lows).clamp_min(1e-5)
            scale = reach**alpha / self._weights(learner.lows.device).clamp_min(1e-5) ** (1 - alpha)
            scale = scale / scale.log().mean().exp()
        anchor = _anchor(learner, least / scale, most / scale) if shift is Shift.ANCHOR else 0
        return learner.begin(lows, highs, scale, delta, anchor)

    def _weights(self, device: torch.device) -> Tensor:
        """max|W_j| of each input channel over the sites, [C]."""
        if self.sizes is None:
            rest = [[axis for axis in range(named.site.weight.dim()) if axis != 1] for named in self.sites]
            weights = [named.site.weight for named in self.sites]
            found = [torch.maximum(w.amax(axes), -w.amin(axes)) for w, axes in zip(weights, rest, strict=True)]
            self.sizes = torch.stack(found).amax(0)
        return self.sizes.to(device)

    def candidates(self, spec: QuantSpec) -> list[Candidate]:
        if spec.method == "smoothquant":
            return [(spec.smooth_alpha if self.may_scale else None, Shift.NONE, 1.0)]
        alphas = ALPHAS if self.may_scale else (None,)
        shifts = [Shift.NONE]
        if self.may_shift:
            shifts.append(Shift.CENTRE)
            if self.bounded_below and not self.shift_is_free:
                shifts.append(Shift.ANCHOR)
        return list(itertools.product(alphas, shifts, SHARES))

    def learner(self, spec: QuantSpec, device: torch.device | None = None) -> LearnedPort:
        """A learner of the port's shape that `begin` has still to start; where the weight is unless said."""
        dims = 4 if isinstance(self.sites[0].site, SiteConv) else 3
        site = self.sites[0].site
        where = site.weight.device if device is None else device
        return LearnedPort(site.in_channels, spec.activation_codes, dims, self.may_scale, where)

    def best(self, spec: QuantSpec) -> Candidate:
        """The candidate of least error; one that leaves an operation in the graph has to earn it."""
        candidates = self.candidates(spec)
        if len(candidates) == 1:
            return candidates[0]
        best = min(candidates, key=self.errors.__getitem__)
        if not self.port.joined or self.is_free(best):
            return best
        free = min(filter(self.is_free, candidates), key=self.errors.__getitem__)
        worth_it = self.errors[best] * 10 ** (spec.gain_after_silu / 10) <= self.errors[free]
        return best if worth_it else free

    def is_free(self, candidate: Candidate) -> bool:
        """True where a neighbour absorbs what the candidate does."""
        alpha, shift, _share = candidate
        return (alpha is None or self.scale_is_free) and (shift is Shift.NONE or self.shift_is_free)


def _anchor(learner: LearnedPort, lows: Tensor, highs: Tensor) -> int:
    """a, for which the codes from −a on cover what of x/s lies above 0, those below it the rest."""
    low, high = min(float(lows.min()), 0.0), float(highs.max())
    return math.floor(-learner.low + (learner.high - learner.low) * low / (high - low)) if high > 0 else 0


def within(
    budget: int, searches: Sequence[PortSearch], size_of: Callable[[PortSearch], int]
) -> Iterator[list[PortSearch]]:
    """Neighbours whose sizes, in bytes, fit the budget together; one that alone does not fit comes alone."""
    chosen: list[PortSearch] = []
    room = budget
    for search in searches:
        size = size_of(search)
        if chosen and size > room:
            yield chosen
            chosen, room = [], budget
        chosen.append(search)
        room -= size
    if chosen:
        yield chosen


def merge_ranges(searches: Iterable[PortSearch], device: torch.device) -> None:
    """Ranges over every process's crops. A process that had none knows no range yet."""
    for search in searches if size() > 1 else ():
        none = torch.full((search.sites[0].site.in_channels,), float("inf"), device=device)
        lows = none if search.lows is None else search.lows
        highs = -none if search.highs is None else search.highs
        search.lows, search.highs = extremes(lows, highs)
