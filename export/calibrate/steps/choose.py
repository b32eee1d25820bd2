"""Choose: candidates of all ports of a part together, where the user's pictures and drawn ones pull apart.

A class of pictures is the user's, or one drawn picture. With n_k the relative error of a port's candidate on it,

    E_k = Σ_ports n_k,     minimised: Σ_k w_k·√E_k

a power mean: a class that is far off does not outweigh those that are seen more often, and is not given up. There
each port takes the candidate of least Σ_k λ_k·n_k with λ_k = w_k / √E_k: λ are computed from the choice and the
choice from λ, until it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from passionsr_trt.engines.bundle.spec import QuantSpec

ROUNDS = 30


class Choosing(Protocol):
    """A port's search: each candidate's errors on each crop, and the power of what the port's sites give there."""

    errors: dict[Any, list[float]]
    powers: list[float]

    def best(self, spec: QuantSpec, weights: Sequence[float] = ()) -> Any: ...


def chosen_together(searches: Sequence[Choosing], spec: QuantSpec, own: int) -> list[Any]:
    """A candidate of every port; own: how many of the crops are the user's, the first ones."""
    drawn = max((len(search.powers) for search in searches), default=0) - own
    if drawn <= 0 or not spec.drawn_weight:
        return [search.best(spec) for search in searches]
    classes = [1 - spec.drawn_weight] + [spec.drawn_weight / drawn] * drawn
    weights, chosen = classes, list[Any]()
    for _round in range(ROUNDS):
        before, chosen = chosen, [search.best(spec, of_crops(search, weights, own)) for search in searches]
        if chosen == before:
            break
        errors = [1e-12] * len(classes)
        for search, best in zip(searches, chosen, strict=True):
            if search.errors:
                errors = [a + b for a, b in zip(errors, relative(search, search.errors[best], own), strict=True)]
        weights = [weight / error**0.5 for weight, error in zip(classes, errors, strict=True)]
    return chosen


def of_crops(search: Choosing, weights: Sequence[float], own: int) -> list[float]:
    """Weights of classes as weights of what a port's crops err."""
    first, *others = relative_to(search, own)
    return [weights[0] / first] * own + [
        weight / power for weight, power in zip(weights[1:], others, strict=False)
    ]


def relative(search: Choosing, errors: Sequence[float], own: int) -> list[float]:
    """Errors on crops as relative errors of classes."""
    return [
        error / power
        for error, power in zip([sum(errors[:own]), *errors[own:]], relative_to(search, own), strict=True)
    ]


def relative_to(search: Choosing, own: int) -> list[float]:
    """The power of each class."""
    powers = [sum(search.powers[:own]), *search.powers[own:]]
    return [max(power, 1e-6 * max(powers), 1e-30) for power in powers]
