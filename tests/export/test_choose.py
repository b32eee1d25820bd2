"""All ports choose together: the least power mean over classes, which no port alone would find."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from passionsr_trt.engines.bundle.spec import PICTURES, QuantSpec
from passionsr_trt.export.calibrate.steps.choose import chosen_together

OWN = 2


@dataclass
class Fixed:
    """A port whose candidates are numbers."""

    errors: dict[int, list[float]]
    powers: list[float]

    def best(self, _spec: QuantSpec, weights: Sequence[float] = ()) -> int:
        def total(own: list[float]) -> float:
            return sum(e * w for e, w in zip(own, weights or [1.0] * len(own), strict=True))

        return min(self.errors, key=lambda candidate: total(self.errors[candidate]))


def ports(seed: int, count: int = 5, candidates: int = 4, drawn: int = 3) -> list[Fixed]:
    """Each candidate is good for one kind of pictures at the cost of the other."""
    chance = random.Random(seed)
    made = []
    for _port in range(count):
        powers = [10 ** chance.uniform(0, 3) for _crop in range(OWN + drawn)]
        errors = {}
        for candidate in range(candidates):
            sides = [candidate] * OWN + [candidates - 1 - candidate] * drawn
            errors[candidate] = [
                power * 1e-3 * 3 ** (side + chance.random()) for power, side in zip(powers, sides, strict=True)
            ]
        made.append(Fixed(errors, powers))
    return made


def power_mean(searches: Sequence[Fixed], chosen: Sequence[int], drawn_weight: float) -> float:
    """As it is defined."""
    classes = len(searches[0].powers) - OWN + 1
    weights = [1 - drawn_weight] + [drawn_weight / (classes - 1)] * (classes - 1)
    total = 0.0
    for index, weight in enumerate(weights):
        crops = slice(0, OWN) if index == 0 else slice(OWN + index - 1, OWN + index)
        total += (
            weight
            * sum(
                sum(port.errors[best][crops]) / sum(port.powers[crops])
                for port, best in zip(searches, chosen, strict=True)
            )
            ** 0.5
        )
    return total


@pytest.mark.parametrize("pictures", ["mixed", "any"])
def test_it_comes_within_a_twentieth_of_what_trying_everything_finds(pictures: str) -> None:
    spec, ratios = QuantSpec(pictures=pictures), []
    for seed in range(10):
        searches = ports(seed)
        tried = (
            power_mean(searches, chosen, PICTURES[pictures])
            for chosen in itertools.product(*(port.errors for port in searches))
        )
        found = power_mean(searches, chosen_together(searches, spec, OWN), PICTURES[pictures])
        ratios.append(found / min(tried))
    assert min(ratios) < 1 + 1e-9 and max(ratios) < 1.05, ratios


def test_for_photos_each_port_takes_what_is_best_for_it() -> None:
    searches = ports(0)
    assert chosen_together(searches, QuantSpec(pictures="photos"), OWN) == [
        port.best(QuantSpec()) for port in searches
    ]


def test_the_more_drawn_pictures_count_the_less_they_lose() -> None:
    def lost(searches: list[Fixed], pictures: str) -> float:
        chosen = chosen_together(searches, QuantSpec(pictures=pictures), OWN)
        return power_mean(searches, chosen, drawn_weight=1.0)

    pairs = [(lost(ports(seed), "mixed"), lost(ports(seed), "any")) for seed in range(5)]
    assert all(mixed >= every for mixed, every in pairs) and sum(mixed > every for mixed, every in pairs) >= 3
