"""Second-order rounding: which way a weight's code is rounded, so that the errors of a row cancel on real inputs.

A row w of a site's weight, in codes, is rounded column after column; the error of each is made up for by the
columns that are still to come, as the inputs' second moments H = Σ x·xᵀ say (GPTQ, ICLR 2023, arXiv 2210.17323,
after OBQ):

    e = (w_k − q_k) / U_kk,   w_j ← w_j − e·U_kj  for j > k,   U the upper Cholesky factor of (H + λI)⁻¹

Requires a PartQuant whose scales are those that stay. Ensures the rounding offsets of each site: a code moves by
one at most, so what is kept is −1, 0 or 1, which is added to the nearest code. It costs an engine nothing.
H is taken from the quantized part's own inputs, over windows of the calibration crops; of a wide layer it is
block-diagonal, COLUMNS at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.export.calibrate.blocks import Inputs, Pairs, Samples
from passionsr_trt.export.calibrate.placement import return_what_is_free, within
from passionsr_trt.export.calibrate.trainer import PartTrainer
from passionsr_trt.export.model.devices import HOST
from passionsr_trt.export.model.hooks import attached, watching_outputs
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import NamedSite, Site, SiteConv, zero_padded
from passionsr_trt.export.quantize.quantizers import FakeSite, fake_quantizers
from passionsr_trt.export.quantize.values import PartQuant, pack_offsets
from torch import Tensor

COLUMNS = 2304
WINDOW = 64  # output positions a side; 64² tokens of a linear
DAMPING = 0.01  # λ, of the mean of H's diagonal
BUDGET = 1 << 30  # bytes of H at a time: a large part is run several times
PANEL = 128  # columns whose errors reach the others together

Moments = list[Tensor]  # of each group of columns of one port, [k, k]
Groups = Mapping[str, list[NamedSite]]  # ports with the sites that read them


@torch.no_grad()
def round_weights(trainer: PartTrainer, quant: PartQuant) -> PartQuant:
    """Every site with its rounding offsets; later ports see the weights of earlier ones rounded."""
    if trainer.spec.rounding == "nearest":
        return quant
    part, compute, pairs = trainer.part, trainer.compute, trainer.pairs
    weights = weights_of_crops(pairs, trainer.spec)
    fakes, offsets, packed = fake_quantizers(part, quant), {}, {}
    with attached(fakes):
        for entries in within(BUDGET, list(trainer.groups.items()), lambda entry: moments_size(entry[1][0].site)):
            own = dict(compute.shared(entries))
            return_what_is_free()
            moments = second_moments(part, own, pairs.inputs, weights)
            for name, sites in Bar(own.items(), desc=f"{part.name}: rounding", unit="port"):
                factors = [Factor.of(moment) for moment in moments.pop(name)]
                for named in sites:
                    offsets[named.name] = site_offsets(named, quant, factors)
            for index, (_name, sites) in enumerate(entries):
                own_offsets = tuple(offsets.pop(named.name, None) for named in sites)
                given = compute.exchanged(own_offsets, index % compute.size)
                for named, moved in zip(sites, given, strict=True):
                    fake = fakes[named.site]
                    assert isinstance(fake, FakeSite)
                    fake.add_offsets(moved, quant.grid.limit)
                    packed[named.name] = pack_offsets(moved).to(HOST)
    return replace(quant, sites={name: replace(row, offsets=packed[name]) for name, row in quant.sites.items()})


def site_offsets(named: NamedSite, quant: PartQuant, factors: Sequence[Factor]) -> Tensor:
    """int8, of the weight's shape and where the weight is."""
    exact = named.site.weight.data
    port, row = quant.ports[named.port_name].on(exact.device), quant.sites[named.name].on(exact.device)
    if port.let is not None:
        exact = exact * named.site.along_inputs(port.let.scale)
    exact = exact.flatten(1) / row.scale.reshape(-1, 1)
    offsets = rounding_offsets(exact.to(factors[0].order.device), factors, quant.grid.limit)
    return offsets.reshape(named.site.weight.shape).to(named.site.weight.device)


def moments_size(site: Site) -> int:
    """Bytes of the H of a site's port."""
    return sum(4 * (end - start) ** 2 for start, end in column_groups(site))


def column_groups(site: Site) -> list[tuple[int, int]]:
    """Where the columns [C·kh·kw] of a site's weight are cut: between channels, every COLUMNS."""
    kernel = site.weight[0, 0].numel()
    step = max(COLUMNS // kernel, 1) * kernel
    total = site.weight[0].numel()
    return [(start, min(start + step, total)) for start in range(0, total, step)]


def weights_of_crops(pairs: Pairs, spec: QuantSpec) -> list[float]:
    """What each crop's H counts for, whatever its energy; empty where none is drawn: each by its energy."""
    if not any(pairs.drawn):
        return []
    own, drawn = pairs.kinds
    of_drawn = spec.drawn_weight / len(drawn)
    return [of_drawn if is_drawn else (1 - spec.drawn_weight) / len(own) for is_drawn in pairs.drawn]


def second_moments(
    part: Part, groups: Groups, inputs: Samples[Inputs], weights: Sequence[float] = ()
) -> dict[str, Moments]:
    """Of every port's quantized tensor, as its sites' weights meet it; weights: of each of the inputs."""
    moments: dict[str, Moments] = {}
    generators: dict[str, torch.Generator] = {}
    for name, sites in groups.items():
        sizes = [end - start for start, end in column_groups(sites[0].site)]
        moments[name] = [torch.zeros(size, size, device=inputs[0][0].device) for size in sizes]
        generators[name] = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    weight = 0.0

    def add(name: str, x: Tensor) -> None:
        columns = columns_of(groups[name][0].site, x, generators[name])
        if weight:
            columns = columns * (weight / columns.square().sum().clamp_min(1e-20)).sqrt()
        start = 0
        for total in moments[name]:
            own = columns[start : start + len(total)]
            total.addmm_(own, own.t())
            start += len(total)

    with watching_outputs((sites[0].site.port, partial(add, name)) for name, sites in groups.items()):
        for index in Bar(range(len(inputs)), desc=f"{part.name}: second moments", unit="crop"):
            weight = weights[index] if weights else 0.0
            part.module(*inputs[index])
    return moments


def columns_of(site: Site, x: Tensor, generator: torch.Generator) -> Tensor:
    """A port's tensor as the columns [C·kh·kw, positions] that a row of the weight is multiplied with; of a large
    one, a window of WINDOW² positions."""
    if not isinstance(site, SiteConv):
        tokens = x.flatten(0, -2)
        return tokens[:: -(-len(tokens) // WINDOW**2)].t()
    x = zero_padded(x, site.pads)
    kernel = site.weight.shape[2:]
    for dim in (2, 3):
        taken = (WINDOW - 1) * site.stride + kernel[dim - 2]
        if x.shape[dim] > taken:
            start = int(torch.randint(0, x.shape[dim] - taken + 1, (), generator=generator))
            x = x.narrow(dim, start, taken)
    return F.unfold(x, (kernel[0], kernel[1]), stride=site.stride).transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Factor:
    """What one group of columns is rounded by, whatever the rows: the order in which they come, those of largest
    H_kk first, and U in that order; U is None where nothing ever comes in.
    """

    order: Tensor
    upper: Tensor | None

    @classmethod
    def of(cls, moment: Tensor) -> Factor:
        """moment: H [k, k], float32."""
        diagonal = moment.diagonal()
        order, mean = torch.argsort(diagonal, descending=True, stable=True), float(diagonal.mean())
        if mean <= 0:
            return cls(order, None)
        damped = moment[order][:, order].double()
        damped.diagonal().add_(DAMPING * mean)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        return cls(order, torch.linalg.cholesky(inverse, upper=True).to(moment.dtype))


def rounding_offsets(exact: Tensor, factors: Sequence[Factor], limit: float) -> Tensor:
    """−1, 0 or 1 for each nearest code of `exact` [O, K], weights in codes; int8 [O, K]."""
    offsets = torch.empty(exact.shape, dtype=torch.int8, device=exact.device)
    start = 0
    for factor in factors:
        own = slice(start, start + len(factor.order))
        nearest = exact[:, own].round().clamp_(-limit, limit)
        offsets[:, own] = round_columns(exact[:, own], nearest, factor, limit) - nearest
        start = own.stop
    return offsets


def round_columns(exact: Tensor, nearest: Tensor, factor: Factor, limit: float) -> Tensor:
    """Codes of one group of columns, each within one of its nearest."""
    order, upper = factor.order, factor.upper
    if upper is None:
        return nearest
    # a column lies in one piece, its rows side by side
    left, centre = (codes.t()[order].contiguous() for codes in (exact, nearest))
    low, high = (centre - 1).clamp_min_(-limit), (centre + 1).clamp_max_(limit)
    codes = torch.empty_like(left)
    for start in range(0, len(left), PANEL):
        end = min(start + PANEL, len(left))
        errors = torch.empty_like(left[start:end])
        for k in range(start, end):
            torch.round(left[k], out=codes[k]).clamp_(low[k], high[k])
            torch.sub(left[k], codes[k], out=errors[k - start]).div_(upper[k, k])
            left[k + 1 : end] -= errors[k - start] * upper[k, k + 1 : end, None]
        left[end:] -= upper[start:end, end:].t() @ errors
    return codes[torch.argsort(order)].t()
