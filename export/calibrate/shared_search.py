"""The search of several processes: every one looks at its share of the crops, all find the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.distributed import extremes, in_turn, size
from passionsr_trt.export.calibrate.search import PortSearch
from passionsr_trt.export.quantize.devices import HOST
from torch import Tensor
from tqdm import tqdm

Inputs = tuple[Tensor, ...]


def merge_ranges(searches: Iterable[PortSearch], device: torch.device) -> None:
    """Ranges over every process's crops. A process that had none knows no range yet."""
    for search in searches if size() > 1 else ():
        none = torch.full((search.sites[0].site.in_channels,), float("inf"), device=device)
        lows = none if search.lows is None else search.lows
        highs = -none if search.highs is None else search.highs
        search.lows, search.highs = extremes(lows, highs)


def add_errors(
    searches: Sequence[PortSearch],
    spec: QuantSpec,
    crops: Sequence[Inputs],
    run: Callable[[Inputs], None],
    title: str,
) -> None:
    """`run` adds every candidate's errors on one crop; all processes' are added in the order of the crops."""
    if size() == 1:
        for inputs in tqdm(crops, desc=title):
            run(inputs)
        return
    keys = [(search, candidate) for search in searches for candidate in search.candidates(spec)]

    def of_crop(index: int) -> tuple[Tensor]:
        for search in searches:
            search.errors.clear()
        run(crops[index])
        found = [search.errors.get(candidate, 0.0) for search, candidate in keys]
        return (torch.tensor(found, dtype=torch.float64, device=HOST),)

    total = torch.zeros(len(keys), dtype=torch.float64, device=HOST)
    for (errors,) in tqdm(in_turn(len(crops), of_crop), desc=title, total=len(crops)):
        total += errors
    for (search, candidate), error in zip(keys, total.tolist(), strict=True):
        search.errors[candidate] = error
