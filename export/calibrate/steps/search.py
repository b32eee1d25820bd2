"""Search: for every port alone, the LET and the boundary ratio of least output error.

Requires nothing. Ensures a learner at every quantized port and site of the part, at its best candidate:

- α of s_j = max|x_j|^α / max|W_j|^(1−α) (SmoothQuant), or s = 1;
- how x is shifted (Shift);
- what u covers. Without drawn pictures a share of the range on either side of 0, so that a ReLU's 0 stays a code:
  2DQuant's two-sided search. Of what is bounded below (after ReLU, GELU, SiLU) only the high side shrinks: its
  one-sided search. With them the range r of the user's pictures (cover 1), that of all pictures R (2), or between,
  r^(2−c)·R^(c−1), channel by channel.

Error: ‖W·x − Q(W̃)·Q(x̃)‖² over the port's sites, on real inputs, without each output channel's mean error, which an
added bias takes away for nothing. With drawn pictures what matters more is not a port's own affair: choose.py.
SmoothQuant itself is the one candidate (smooth_alpha, no shift, full range).

What every port meets is recorded, then all candidates are tried on it:
- A weight is quantized once for all candidates whose s is the same, and for all inputs; what goes through it is
  stacked, as far as STACKED reaches. A large weight costs more to quantize and to read than to multiply with.
- Of a large part not all ports are recorded at once (RECORDED): its float pass on small crops is run again.
- Of several processes each tries its share of the ports.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import mul

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.export.calibrate.blocks import Inputs, paused
from passionsr_trt.export.calibrate.compute import Compute
from passionsr_trt.export.calibrate.learners import LearnedPort, LearnedSite, reach
from passionsr_trt.export.calibrate.placement import within
from passionsr_trt.export.calibrate.steps.choose import chosen_together
from passionsr_trt.export.calibrate.steps.reach import say_reach
from passionsr_trt.export.calibrate.trainer import SEARCH_INPUTS, PartTrainer
from passionsr_trt.export.model.absorb import may_shift_for_free
from passionsr_trt.export.model.devices import HOST
from passionsr_trt.export.model.hooks import watching_outputs
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import NamedSite, Port, Site, SiteConv, group_ports, zero_padded
from passionsr_trt.export.quantize.chosen import quantized_sites
from passionsr_trt.export.quantize.grids import per_channel, quantize_
from passionsr_trt.export.quantize.quantizers import Scratch
from passionsr_trt.export.quantize.values import PartQuant
from torch import Tensor, nn

ALPHAS = (None, 0.4, 0.7)
SHARES = (1.0, 0.85, 0.7, 0.55)
ALPHAS_OF_BOTH = (0.4, 0.7, 1.0)
COVERS_OF_BOTH = (1.0, 1.5, 1.75, 2.0)
WINDOW = 64  # positions a side of what is looked at of a crop, where drawn ones make many of them
LEAST = -0.28  # of SiLU, lower than GELU's
LEAST_OWN = 0.01  # of a channel's range: what only drawn pictures drive has room all the same
RECORDED = 512 << 20  # bytes of inputs that wait for their turn
STACKED = 128 << 20  # bytes of inputs that meet a weight together


class Shift(enum.Enum):
    """Where a port's zero goes."""

    NONE = "stays"
    CENTRE = "each channel's range is centred; padding is shifted with it"
    ZERO_POINT = "0 has an outer code, for tensors that are bounded below: one bit more (learners.py)"


Candidate = tuple[float | None, Shift, float]  # α or None for s = 1; shift; what u covers: share or mean


@dataclass
class PortSearch:
    """One port with its sites; ranges are filled by the first pass, errors by the second.

    lows, highs [C]: of the user's pictures; all_lows, all_highs: of the drawn ones too. errors: of each candidate,
    on each crop; powers: of the sites' outputs there, without their channels' means.
    """

    name: str
    sites: list[NamedSite]
    may_scale: bool
    may_shift: bool
    scale_is_free: bool = True
    shift_is_free: bool = True
    lows: Tensor | None = None
    highs: Tensor | None = None
    all_lows: Tensor | None = None
    all_highs: Tensor | None = None
    errors: dict[Candidate, list[float]] = field(default_factory=dict)
    powers: list[float] = field(default_factory=list)
    sizes: Tensor | None = None  # max|W_j|, once it was asked for

    @property
    def port(self) -> Port:
        return self.sites[0].site.port

    def observe(self, x: Tensor, drawn: bool = False) -> None:
        axes = (0, 2, 3) if x.dim() == 4 else tuple(range(x.dim() - 1))
        low, high = x.amin(axes), x.amax(axes)
        if not drawn:
            self.lows = low if self.lows is None else torch.minimum(self.lows, low)
            self.highs = high if self.highs is None else torch.maximum(self.highs, high)
        self.all_lows = low if self.all_lows is None else torch.minimum(self.all_lows, low)
        self.all_highs = high if self.all_highs is None else torch.maximum(self.all_highs, high)

    @property
    def bounded_below(self) -> bool:
        """True after ReLU (0), GELU (−0.17) or SiLU (−0.28), where the high side goes further."""
        assert self.all_lows is not None and self.all_highs is not None
        low, high = float(self.all_lows.min()), float(self.all_highs.max())
        return low >= LEAST and high > -4 * min(low, 0)

    def begin(self, learner: LearnedPort, candidate: Candidate) -> LearnedPort:
        """Start a learner at a candidate."""
        alpha, shift, cover = candidate
        least, most = (ends.to(learner.lows.device) for ends in self.range(max(cover, 1.0)))
        share = min(cover, 1.0)
        lows, highs = least * (1.0 if self.bounded_below else share), most * share
        delta = (lows + highs) / 2 if shift is Shift.CENTRE else torch.zeros_like(lows)
        scale = torch.ones_like(delta)
        if alpha is not None:
            reach = torch.maximum(highs - delta, delta - lows).clamp_min(1e-5)
            scale = reach**alpha / self._weights(learner.lows.device).clamp_min(1e-5) ** (1 - alpha)
            scale = scale / scale.log().mean().exp()
        zero_point = _zero_point(learner, least / scale, most / scale) if shift is Shift.ZERO_POINT else 0
        return learner.begin(lows, highs, scale, delta, zero_point)

    def range(self, cover: float) -> tuple[Tensor, Tensor]:
        """What is covered of each channel, [C]: cover 1 of the user's pictures, 2 of all, or between."""
        assert self.lows is not None and self.highs is not None
        assert self.all_lows is not None and self.all_highs is not None
        if cover == 1:
            return self.lows, self.highs
        return -_between(-self.lows, -self.all_lows, cover - 1), _between(self.highs, self.all_highs, cover - 1)

    def _weights(self, device: torch.device) -> Tensor:
        """max|W_j| of each input channel over the sites, [C]."""
        if self.sizes is None:
            weights = [named.site.weight for named in self.sites]
            others = [[axis for axis in range(w.dim()) if axis != 1] for w in weights]
            sizes = [torch.maximum(w.amax(axes), -w.amin(axes)) for w, axes in zip(weights, others, strict=True)]
            self.sizes = torch.stack(sizes).amax(0)
        return self.sizes.to(device)

    def candidates(self, spec: QuantSpec) -> list[Candidate]:
        both = spec.drawn_weight > 0
        if spec.method == "smoothquant":
            return [(spec.smooth_alpha if self.may_scale else None, Shift.NONE, 2.0 if both else 1.0)]
        alphas: tuple[float | None, ...] = (None,)
        if self.may_scale:
            alphas = ALPHAS if not both else ALPHAS_OF_BOTH if self.scale_is_free else (None, *ALPHAS_OF_BOTH[1:])
        shifts = [Shift.NONE]
        if self.may_shift:
            shifts.append(Shift.CENTRE)
            if self.bounded_below and not self.shift_is_free:
                shifts.append(Shift.ZERO_POINT)
        return list(itertools.product(alphas, shifts, COVERS_OF_BOTH if both else SHARES))

    def learner(self, spec: QuantSpec, device: torch.device | None = None) -> LearnedPort:
        """A learner of the port's shape that `begin` has still to start; where the weight is unless said."""
        dims = 4 if isinstance(self.sites[0].site, SiteConv) else 3
        site = self.sites[0].site
        where = site.weight.device if device is None else device
        return LearnedPort(site.in_channels, spec.activation_codes, dims, self.may_scale, where)

    def best(self, spec: QuantSpec, weights: Sequence[float] = ()) -> Candidate:
        """The candidate of least error, summed over crops with these weights, or alike; one that leaves an
        operation in the graph has to earn it."""
        candidates = self.candidates(spec)
        if len(candidates) == 1:
            return candidates[0]
        errors = {
            candidate: sum(map(mul, own, weights)) if weights else sum(own)
            for candidate, own in self.errors.items()
        }
        best = min(candidates, key=errors.__getitem__)
        if not self.port.fused or self.is_free(best):
            return best
        free = min(filter(self.is_free, candidates), key=errors.__getitem__)
        worth_it = errors[best] * 10 ** (spec.gain_where_fused / 10) <= errors[free]
        return best if worth_it else free

    def is_free(self, candidate: Candidate) -> bool:
        """True where a neighbour absorbs what the candidate does."""
        alpha, shift, _share = candidate
        return (alpha is None or self.scale_is_free) and (shift is Shift.NONE or self.shift_is_free)


def _between(own: Tensor, every: Tensor, share: float) -> Tensor:
    """A geometric mean of two ends on one side of 0, where there is something on that side."""
    least = torch.maximum(own, every * LEAST_OWN).clamp_min(0)
    return torch.where(every > 0, least ** (1 - share) * every.clamp_min(0) ** share, every)


def _zero_point(learner: LearnedPort, lows: Tensor, highs: Tensor) -> int:
    """a, for which the codes from −a on cover what of x/s lies above 0, those below it what lies below."""
    low, high = min(float(lows.min()), 0.0), float(highs.max())
    return math.floor(-learner.low + (learner.high - learner.low) * low / (high - low)) if high > 0 else 0


def port_searches(part: Part, spec: QuantSpec) -> list[PortSearch]:
    """A search for every quantized port: what it may do to it, and what of that a neighbour absorbs."""
    absorbers = part.absorbers()
    searches = []
    for port_name, sites in group_ports(quantized_sites(part, spec)).items():
        site, unabsorbed = sites[0].site, spec.allows_unabsorbed(port_name)
        absorbed = site.port in absorbers
        free_shift = may_shift_for_free(site.port, site, absorbers)
        searches.append(
            PortSearch(
                port_name,
                sites,
                may_scale=unabsorbed or absorbed,
                may_shift=unabsorbed or free_shift,
                scale_is_free=absorbed,
                shift_is_free=free_shift,
            )
        )
    return searches


def search(trainer: PartTrainer, _quant: PartQuant) -> PartQuant:
    """Learners of all quantized ports and sites, searched, or as an interrupted calibration left them."""
    part, spec = trainer.part, trainer.spec
    searches = port_searches(part, spec)
    learners: dict[Site | Port, nn.Module] = {}
    for entry in searches:
        learners[entry.port] = entry.learner(spec)
        for named in entry.sites:
            weight = named.site.weight
            learners[named.site] = LearnedSite(weight.shape[0], spec.weight_code_max, weight.device)
    was_saved = trainer.attach(learners)
    if not was_saved:
        with paused(part.module):
            own, drawn = ([trainer.teacher[index] for index in kind] for kind in trainer.pairs.kinds)
            find_ranges(part, searches, own, trainer.compute)
            if drawn:
                find_ranges(part, searches, drawn, trainer.compute, drawn=True)
                if trainer.compute.leads:
                    say_reach(part.name, searches, spec)
            add_errors(part, searches, spec, trainer.small, trainer.compute)
        for entry, best in zip(searches, chosen_together(searches, spec, len(own[:SEARCH_INPUTS])), strict=True):
            begin_at(entry, best, spec)
    trainer.pad_before_shifts()
    if not was_saved:
        trainer.save()
    return trainer.quant()


@torch.no_grad()
def find_ranges(
    part: Part, searches: Sequence[PortSearch], inputs: Sequence[Inputs], compute: Compute, drawn: bool = False
) -> None:
    """What each port's channels reach on the float part's inputs, all of the user's pictures or all drawn."""
    with watching_outputs((search.port, partial(search.observe, drawn=drawn)) for search in searches):
        for crop in Bar(compute.shared(inputs), desc=f"{part.name}: ranges{' of drawn pictures' * drawn}"):
            part.module(*crop)
    merge_ranges(searches, inputs[0][0].device, compute)


def begin_at(search: PortSearch, best: Candidate, spec: QuantSpec) -> None:
    """Start the attached learners of a port and its sites at a candidate."""
    port = search.port.quantizer
    search.begin(port, best)
    for named in search.sites:
        named.site.quantizer.begin_bias(port.step(), port.weight(named.site.weight))
    if search.port.fused and search.is_free(best) and not (spec.drawn_weight and search.scale_is_free):
        port.may_scale = False


def merge_ranges(searches: Iterable[PortSearch], device: torch.device, compute: Compute) -> None:
    """Ranges over every process's crops. A process that had none knows no range yet."""
    for search in searches if compute.size > 1 else ():
        none = torch.full((search.sites[0].site.in_channels,), float("inf"), device=device)
        for low, high in (("lows", "highs"), ("all_lows", "all_highs")):
            lows, highs = getattr(search, low), getattr(search, high)
            lows, highs = compute.extremes(none if lows is None else lows, -none if highs is None else highs)
            setattr(search, low, lows)
            setattr(search, high, highs)


@torch.no_grad()
def add_errors(
    part: Part, searches: Sequence[PortSearch], spec: QuantSpec, crops: Sequence[Inputs], compute: Compute
) -> None:
    """Every candidate's error, on small crops of the float part's inputs, in `errors` of its search."""
    tried = [search for search in searches if len(search.candidates(spec)) > 1]
    own, scratch, side = compute.shared(tried), Scratch(), WINDOW if spec.drawn_weight else None
    with Bar(total=len(tried), desc=f"{part.name}: search", unit="port") as progress:
        sizes = recorded_sizes(part, own, crops, side)
        for chosen in within(RECORDED, own, lambda search: sizes[search.name]):
            for search, inputs in recorded(part, chosen, crops, side):
                search.errors, search.powers = errors_of(search, inputs, spec, scratch)
                progress.update(compute.size)
    none = [0.0] * len(crops)
    for owner in range(compute.size):
        theirs = tried[owner :: compute.size]
        own_rows = [
            row
            for search in theirs
            for row in [search.powers or none, *(search.errors.get(c, none) for c in search.candidates(spec))]
        ]
        (given,) = compute.exchanged((torch.tensor(own_rows, dtype=torch.float64, device=HOST),), owner)
        rows = iter(given.tolist())
        for search in theirs:
            search.powers = next(rows)
            search.errors = {candidate: next(rows) for candidate in search.candidates(spec)}


def recorded_sizes(
    part: Part, searches: Sequence[PortSearch], crops: Sequence[Inputs], side: int | None
) -> dict[str, int]:
    """Bytes of what is recorded of all crops for each port, by the first crop's."""
    sizes: dict[str, int] = {}

    def note(search: PortSearch, x: Tensor) -> None:
        sizes[search.name] = sizes.get(search.name, 0) + middle(x, side).nbytes * len(crops)

    with watching_outputs((search.port, partial(note, search)) for search in searches):
        if searches:
            part.module(*crops[0])
    return sizes


def recorded(
    part: Part, searches: Sequence[PortSearch], crops: Sequence[Inputs], side: int | None = None
) -> Iterator[tuple[PortSearch, list[Tensor]]]:
    """What the float part's ports meet on all crops, or in their middle side × side positions, port after port.

    What was given is let go.
    """
    by_port: dict[str, list[Tensor]] = {search.name: [] for search in searches}

    def keep(search: PortSearch, x: Tensor) -> None:
        by_port[search.name].append(middle(x, side).clone())

    with watching_outputs((search.port, partial(keep, search)) for search in searches):
        for inputs in crops:
            part.module(*inputs)
    for search in searches:
        yield search, by_port.pop(search.name)


def middle(x: Tensor, side: int | None) -> Tensor:
    """Of a tensor [B, C, H, W] that is larger the middle side × side positions; else all of it."""
    if side is None or x.dim() != 4:
        return x
    for dim in (2, 3):
        length = min(side, x.shape[dim])
        x = x.narrow(dim, (x.shape[dim] - length) // 2, length)
    return x


def errors_of(
    search: PortSearch, inputs: Sequence[Tensor], spec: QuantSpec, scratch: Scratch
) -> tuple[dict[Candidate, list[float]], list[float]]:
    """Each candidate's error on each of the port's inputs [B, C, H, W] or [..., C], and the outputs' power."""
    site, device = search.sites[0].site, inputs[0].device
    if isinstance(site, SiteConv):  # a shift moves the zeros of the padding too
        inputs = [zero_padded(x, site.pads) for x in inputs]
    else:
        inputs = [x.flatten(0, -2) for x in inputs]
    sites = [named.site for named in search.sites]
    weights = [site.weight.to(device) for site in sites]
    references = list(products(sites, inputs, weights))
    learners = {
        candidate: search.begin(search.learner(spec, device), candidate) for candidate in search.candidates(spec)
    }
    errors: dict[Candidate, list[float]] = {candidate: [] for candidate in learners}
    for alike in of_one_scale(learners):
        quantized = quantized_weights(weights, learners[alike[0]], spec.weight_code_max, scratch)
        codes = (learners[candidate](x) for candidate in alike for x in inputs)
        outputs = products(sites, codes, quantized)
        for candidate in alike:
            for reference in references:
                errors[candidate].append(
                    sum(error_of_spread(y - r) for y, r in zip(next(outputs), reference, strict=True))
                )
    return errors, [sum(error_of_spread(r.clone()) for r in reference) for reference in references]


def of_one_scale(learners: dict[Candidate, LearnedPort]) -> Iterable[list[Candidate]]:
    """Candidates whose s differ by rounding at most, together."""
    groups: list[list[Candidate]] = []
    for candidate, learner in learners.items():
        for group in groups:
            if torch.allclose(learner.s(), learners[group[0]].s(), rtol=1e-5, atol=0):
                group.append(candidate)
                break
        else:
            groups.append([candidate])
    return groups


def quantized_weights(
    weights: Sequence[Tensor], learner: LearnedPort, limit: int, scratch: Scratch
) -> list[Tensor]:
    """Q(W̃) of weights, with full ranges, in scratch room."""
    rooms = scratch.take([weight.shape for weight in weights], weights[0].device)
    for weight, room in zip(weights, rooms, strict=True):
        learner.weight(weight, out=room)
        step = per_channel(reach(room) / limit, room.dim())
        quantize_(room, step, -limit, limit).mul_(step)
    return rooms


def products(sites: Sequence[Site], inputs: Iterable[Tensor], weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """For each input what the sites make of it with these weights, without a bias; inputs of one shape meet a
    weight together."""
    for batch in stacks(inputs):
        together = batch[0] if len(batch) == 1 else torch.cat(batch)
        lengths = [len(x) for x in batch]
        outputs = [
            apply(site, together, weight).split(lengths) for site, weight in zip(sites, weights, strict=True)
        ]
        yield from map(list, zip(*outputs, strict=True))


def stacks(inputs: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours that can be stacked: all but their first sides equal, STACKED bytes at most."""
    batch: list[Tensor] = []
    for x in inputs:
        if batch and (x.shape[1:] != batch[0].shape[1:] or (len(batch) + 1) * x.nbytes > STACKED):
            yield batch
            batch = []
        batch.append(x)
    if batch:
        yield batch


def apply(site: Site, x: Tensor, weight: Tensor) -> Tensor:
    """The site's product with another weight, of what is padded already."""
    if isinstance(site, SiteConv):
        return nn.functional.conv2d(x, weight, None, site.stride)
    return nn.functional.linear(x, weight)


def error_of_spread(error: Tensor) -> float:
    """Σ (e − its channel's mean)² of a convolution's output or of a linear's rows [N, O]; `error` is used up."""
    rows = error.transpose(0, 1).flatten(1) if error.dim() == 4 else error.t()
    return float(rows.sub_(rows.mean(1, keepdim=True)).square_().sum())
