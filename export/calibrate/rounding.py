"""Second-order rounding: which way a weight's code is rounded, so that the errors of a row cancel on real inputs.

A row w of a site's weight, in codes, is rounded column after column; the error of each is made up for by the
columns that are still to come, as the inputs' second moments H = Σ x·xᵀ say (GPTQ, ICLR 2023, arXiv 2210.17323,
after OBQ):

    e = (w_k − q_k) / U_kk,   w_j ← w_j − e·U_kj  for j > k,   U the upper Cholesky factor of (H + λI)⁻¹

Boundaries stay as they were learned, and a code moves by one at most: what is kept is the *turn*, −1, 0 or 1, that
is added to the nearest code. It costs nothing when the engine runs.
H is taken from the quantized part's own inputs, over windows of the calibration crops; of a wide layer it is
block-diagonal, COLUMNS at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from passionsr_trt.export.calibrate.distributed import exchanged, shared, size
from passionsr_trt.export.calibrate.heap import return_what_is_free
from passionsr_trt.export.calibrate.held import HeldWeight
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.calibrate.search import PortSearch, within
from passionsr_trt.export.quantize.hooks import watching_outputs
from passionsr_trt.export.quantize.part import Part
from passionsr_trt.export.quantize.sites import Site, SiteConv, zero_padded
from torch import Tensor
from tqdm import tqdm

COLUMNS = 2304
WINDOW = 64  # output positions a side; 64² tokens of a linear
DAMPING = 0.01  # λ, of the mean of H's diagonal
BUDGET = 1 << 30  # bytes of H at a time: a large part is run several times
PANEL = 128  # columns whose errors reach the others together

Moments = list[Tensor]  # of each group of columns of one port, [k, k]


@torch.no_grad()
def round_weights(part: Part, searches: Sequence[PortSearch], inputs: Sequence[tuple[Tensor, ...]]) -> None:
    """Give every learned weight of a part its turns. The part is in LEARN mode; `inputs` are those that it gets
    from the quantized parts before it."""
    device = inputs[0][0].device
    for chosen in within(BUDGET, searches, moments_size):
        own = shared(chosen)
        return_what_is_free()
        moments = second_moments(part, own, inputs)
        for search in tqdm(own, desc=f"{part.name}: rounding", unit="port"):
            port = search.port.learner
            assert isinstance(port, LearnedPort)
            factors = [Factor.of(moment) for moment in moments.pop(search.name)]
            for named in search.sites:
                learner = named.site.learner
                assert isinstance(learner, LearnedWeight)
                exact = port.weight(named.site.weight).flatten(1)
                step = (learner.boundary(exact) / learner.limit).reshape(-1, 1)
                found = turns(exact.div_(step).to(device), factors, learner.limit)
                learner.turns = found.reshape(named.site.weight.shape).to(exact.device)
        for owner, search in enumerate(chosen):
            given = exchanged(tuple(learner.turns for learner in learned_weights(search)), owner % size())
            for learner, found in zip(learned_weights(search), given, strict=True):
                learner.turns = found
                if isinstance(learner.held, HeldWeight):
                    learner.held.turn(found)


def learned_weights(search: PortSearch) -> list[LearnedWeight]:
    return [named.site.learner for named in search.sites if isinstance(named.site.learner, LearnedWeight)]


def moments_size(search: PortSearch) -> int:
    """Bytes of a port's H."""
    return sum(4 * (end - start) ** 2 for start, end in column_groups(search.sites[0].site))


def column_groups(site: Site) -> list[tuple[int, int]]:
    """Where the columns [C·kh·kw] of a site's weight are cut: between channels, every COLUMNS."""
    kernel = site.weight[0, 0].numel()
    step = max(COLUMNS // kernel, 1) * kernel
    total = site.weight[0].numel()
    return [(start, min(start + step, total)) for start in range(0, total, step)]


def second_moments(
    part: Part, searches: Sequence[PortSearch], inputs: Sequence[tuple[Tensor, ...]]
) -> dict[str, Moments]:
    """Of every port's quantized tensor, as its sites' weights meet it."""
    moments: dict[str, Moments] = {}
    generators: dict[str, torch.Generator] = {}
    for search in searches:
        site = search.sites[0].site
        sizes = [end - start for start, end in column_groups(site)]
        moments[search.name] = [torch.zeros(size, size, device=inputs[0][0].device) for size in sizes]
        generators[search.name] = torch.Generator().manual_seed(zlib.crc32(search.name.encode()))

    def add(search: PortSearch, x: Tensor) -> None:
        columns = columns_of(search.sites[0].site, x, generators[search.name])
        start = 0
        for total in moments[search.name]:
            own = columns[start : start + len(total)]
            total.addmm_(own, own.t())
            start += len(total)

    with watching_outputs((search.port, partial(add, search)) for search in searches):
        for sample in tqdm(inputs, desc=f"{part.name}: second moments", unit="crop"):
            part.module(*sample)
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


def turns(exact: Tensor, factors: Sequence[Factor], limit: int) -> Tensor:
    """−1, 0 or 1 for each nearest code of `exact` [O, K], weights in codes; int8 [O, K]."""
    found = torch.empty(exact.shape, dtype=torch.int8, device=exact.device)
    start = 0
    for factor in factors:
        own = slice(start, start + len(factor.order))
        nearest = exact[:, own].round().clamp_(-limit, limit)
        found[:, own] = round_columns(exact[:, own], nearest, factor, limit) - nearest
        start = own.stop
    return found


def round_columns(exact: Tensor, nearest: Tensor, factor: Factor, limit: int) -> Tensor:
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
