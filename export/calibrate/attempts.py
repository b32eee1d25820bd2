"""The errors of the search's candidates: what every port meets is recorded, then all of them are tried on it.

- A weight is quantized once for all candidates whose s is the same, and for all inputs; what goes through it is
  stacked, as far as STACKED reaches. A large weight costs more to quantize and to read than to multiply with.
- Of a large part not all ports are recorded at once (RECORDED): its float pass on small crops is run again.
- Of several processes each tries its share of the ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.blockwise import Inputs
from passionsr_trt.export.calibrate.distributed import exchanged, shared, size
from passionsr_trt.export.calibrate.learn import LearnedPort, reach
from passionsr_trt.export.calibrate.scratch import Scratch
from passionsr_trt.export.calibrate.search import Candidate, PortSearch, within
from passionsr_trt.export.quantize.devices import HOST
from passionsr_trt.export.quantize.hooks import watching_outputs
from passionsr_trt.export.quantize.part import Part
from passionsr_trt.export.quantize.quantizer import per_channel, quantize_
from passionsr_trt.export.quantize.sites import Site, SiteConv, zero_padded
from torch import Tensor, nn
from tqdm import tqdm

RECORDED = 512 << 20  # bytes of inputs that wait for their turn
STACKED = 128 << 20  # bytes of inputs that meet a weight together


@torch.no_grad()
def add_errors(part: Part, searches: Sequence[PortSearch], spec: QuantSpec, crops: Sequence[Inputs]) -> None:
    """Every candidate's error, on small crops of the float part's inputs, in `errors` of its search."""
    tried = [search for search in searches if len(search.candidates(spec)) > 1]
    own, scratch = shared(tried), Scratch()
    with tqdm(total=len(tried), desc=f"{part.name}: search", unit="port") as progress:
        sizes = recorded_sizes(part, own, crops)
        for chosen in within(RECORDED, own, lambda search: sizes[search.name]):
            for search, inputs in recorded(part, chosen, crops):
                search.errors = errors_of(search, inputs, spec, scratch)
                progress.update(size())
    for owner in range(size()):
        theirs = tried[owner :: size()]
        found = [search.errors.get(candidate, 0.0) for search in theirs for candidate in search.candidates(spec)]
        (given,) = exchanged((torch.tensor(found, dtype=torch.float64, device=HOST),), owner)
        errors = iter(given.tolist())
        for search in theirs:
            search.errors = {candidate: next(errors) for candidate in search.candidates(spec)}


def recorded_sizes(part: Part, searches: Sequence[PortSearch], crops: Sequence[Inputs]) -> dict[str, int]:
    """Bytes of what all crops give each port, by what the first crop gives."""
    sizes: dict[str, int] = {}

    def note(search: PortSearch, x: Tensor) -> None:
        sizes[search.name] = sizes.get(search.name, 0) + x.nbytes * len(crops)

    with watching_outputs((search.port, partial(note, search)) for search in searches):
        if searches:
            part.module(*crops[0])
    return sizes


def recorded(
    part: Part, searches: Sequence[PortSearch], crops: Sequence[Inputs]
) -> Iterator[tuple[PortSearch, list[Tensor]]]:
    """What the float part's ports meet on all crops, port after port; what was given is let go."""
    kept: dict[str, list[Tensor]] = {search.name: [] for search in searches}

    def keep(search: PortSearch, x: Tensor) -> None:
        kept[search.name].append(x.clone())

    with watching_outputs((search.port, partial(keep, search)) for search in searches):
        for inputs in crops:
            part.module(*inputs)
    for search in searches:
        yield search, kept.pop(search.name)


def errors_of(
    search: PortSearch, inputs: Sequence[Tensor], spec: QuantSpec, scratch: Scratch
) -> dict[Candidate, float]:
    """Each candidate's error, summed over inputs of the port [B, C, H, W] or [..., C]."""
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
    errors = dict.fromkeys(learners, 0.0)
    for alike in of_one_scale(learners):
        quantized = quantized_weights(weights, learners[alike[0]], spec.weight_code_max, scratch)
        codes = (through(learners[candidate], x) for candidate in alike for x in inputs)
        found = products(sites, codes, quantized)
        for candidate in alike:
            for reference in references:
                errors[candidate] += sum(
                    error_of_spread(y - r) for y, r in zip(next(found), reference, strict=True)
                )
    return errors


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


def through(learner: LearnedPort, x: Tensor) -> Tensor:
    """Q(x̃)."""
    return learner.quantize(learner.transform(x))


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
