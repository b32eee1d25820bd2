"""What a picture will become: how large, in how many tiles, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from passionsr_trt.engines.bundle.wiring import REFERENCE_SIZE, Size
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.planning import Options, Tiles, plan_tiles


@dataclass(frozen=True)
class Forecast:
    """given, made: (height, width). tiles: part → how many, 1 of each where the picture is not cut.
    work: part → multiply-accumulates of all its tiles.
    """

    given: Size
    made: Size
    tiles: Mapping[str, int]
    work: Mapping[str, float]

    @property
    def cut(self) -> bool:
        return any(count > 1 for count in self.tiles.values())

    @property
    def total(self) -> float:
        """Multiply-accumulates of the whole chain."""
        return sum(self.work.values())

    def text(self, seconds: float | None) -> str:
        """`4000×3000 → 16000×12000, 280 tiles, about 2 min`. seconds: that it will take, None: nobody knows."""
        (height, width), (rows, columns) = self.given, self.made
        facts = [f"{width}×{height} → {columns}×{rows}"]
        if self.cut:
            facts.append(f"{sum(self.tiles.values())} tiles")
        return ", ".join([*facts, *([] if seconds is None else [about(seconds)])])


def forecast(chain: Chain, given: Size, options: Options) -> Forecast:
    """Of a picture of (height, width) `given`. UserError where no tiles fit into memory."""
    made = given[0] * chain.model.upscale, given[1] * chain.model.upscale
    padded = chain.padded(given)
    tiles = plan_tiles(padded, chain, options)
    counts, work = {}, {}
    for part in chain.parts:
        counts[part.name], pixels = _cut(padded, tiles, part.name)
        work[part.name] = (sum(site.macs for site in part.sites) or 1) * pixels / REFERENCE_SIZE**2
    return Forecast(given, made, counts, work)


def _cut(size: Size, tiles: Tiles | None, part: str) -> tuple[int, int]:
    """How many tiles a part gets, and how many pixels they have together."""
    if tiles is None:
        return 1, math.prod(size)
    count = sum(tiles.counts(size, part))
    return count, count * math.prod(map(min, size, tiles.sides[part]))


class Pace:
    """Seconds per multiply-accumulate of engines by their label, as they last ran here."""

    def __init__(self) -> None:
        self._paces: dict[str, float] = {}

    def note(self, label: str, work: float, seconds: float) -> None:
        self._paces[label] = seconds / work

    def seconds(self, label: str, work: float) -> float | None:
        """How long so much will take; None where these engines have not run."""
        return self._paces[label] * work if label in self._paces else None


def about(seconds: float) -> str:
    """`about 2 min`: rounded as far as a forecast is to be believed."""
    if seconds < 1:
        return "less than a second"
    step = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return f"about {duration(round(seconds / step) * step)}"


def duration(seconds: float) -> str:
    """`5 s`, `1 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    found = [f"{minutes} min"] if minutes else []
    return " ".join([*found, f"{rest} s"] if rest or not minutes else found)
