"""Reach: a word where the user's pictures reach less far than the drawn ones that are counted beside them.

There boundaries that were chosen for the user's pictures alone would clip pictures unlike them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.bar import Bar
from torch import Tensor

LESS = 0.9  # as far: what is nearer to 1 is chance, with so few pictures


class Ranged(Protocol):
    """A port's search: lows and highs [C] of the user's pictures, and of the drawn ones too."""

    name: str
    lows: Tensor | None
    highs: Tensor | None
    all_lows: Tensor | None
    all_highs: Tensor | None


def say_reach(part: str, searches: Sequence[Ranged], spec: QuantSpec) -> None:
    """Print the line on stderr, if there is one."""
    if line := reach_line(part, searches, spec):
        Bar.write(line, file=sys.stderr)


def reach_line(part: str, searches: Sequence[Ranged], spec: QuantSpec) -> str | None:
    """`network: your pictures reach less far than drawn ones at 20 of 33 ports …`; None where they do at none."""
    reached = {search.name: own_reach(search) for search in searches}
    less = {name: share for name, share in reached.items() if share < LESS}
    if not less:
        return None
    port = min(less, key=less.__getitem__)
    return (
        f"{part}: your pictures reach less far than drawn ones at {len(less)} of {len(reached)} ports "
        f"({less[port]:.2f} as far at {port}). Nothing is to be done: drawn ones count "
        f"{spec.drawn_weight:g} of the whole, as the spec says "
        f'("pictures": "{spec.pictures}"); "photos" would clip what reaches further than yours'
    )


def own_reach(search: Ranged) -> float:
    """How far the user's pictures reach, as a share of what all do: of a port's largest |x|."""
    assert search.lows is not None and search.highs is not None
    assert search.all_lows is not None and search.all_highs is not None
    own = max(float(-search.lows.min()), float(search.highs.max()), 0.0)
    every = max(float(-search.all_lows.min()), float(search.all_highs.max()), 0.0)
    return own / every if every else 1.0
