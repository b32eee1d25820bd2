"""What is told of a picture on its way through a chain: what it will be, how far it is, that it is computed.

Whoever shows progress hands in an observer of its own for each picture. Several pictures may be under way at once;
all observers are called in the one thread that asks for the results, so they may share what they like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from passionsr_trt.engines.bundle.wiring import REFERENCE_SIZE, Size
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.planning import Options, Tiles, plan_tiles


@dataclass(frozen=True)
class Plan:
    """What a picture will be. given, result: (height, width); tiles: None where it is not tiled; counts: part →
    how many tiles, 1 of each where it is not tiled; works: part → multiply-accumulates of all of them.
    """

    given: Size
    result: Size
    tiles: Tiles | None
    counts: Mapping[str, int]
    works: Mapping[str, float]

    @property
    def count(self) -> int:
        """Tiles of all parts together, 0 where it is not tiled."""
        return sum(self.counts.values()) if self.tiles else 0

    @property
    def work(self) -> float:
        """Multiply-accumulates of the whole chain."""
        return sum(self.works.values())

    def share(self, tile: int) -> float:
        """What the tile is, counted from 0 over all parts, of the whole work; 0 behind the last one."""
        for part, count in self.counts.items():
            if tile < count:
                return self.works[part] / count / self.work
            tile -= count
        return 0.0

    def doing(self, tiles: int) -> str:
        """`tile 3 of 4`, where so many are done; nothing where it is not tiled."""
        if not self.tiles:
            return ""
        return f"tile {tiles + 1} of {self.count}" if tiles < self.count else "finishing"

    def __str__(self) -> str:
        """`4000×3000 → 16000×12000, 280 tiles of 640×640 pixels`, width first."""
        sides = " → ".join(f"{width}×{height}" for height, width in (self.given, self.result))
        return f"{sides}, {self.count} {self.tiles}" if self.tiles else sides


def plan_of(chain: Chain, given: Size, options: Options) -> Plan:
    """Of a picture of (height, width) `given`. UserError where no tiles fit into memory."""
    padded = chain.padded(given)
    tiles = plan_tiles(padded, chain, options)
    counts, works = {}, {}
    for part in chain.parts:
        side = padded if tiles is None else tiles.sides[part.name]
        counts[part.name] = 1 if tiles is None else sum(tiles.counts(padded, part.name))
        pixels = counts[part.name] * math.prod(map(min, padded, side))
        works[part.name] = (sum(site.macs for site in part.sites) or 1) * pixels / REFERENCE_SIZE**2
    return Plan(given, options.result_size(given, chain.model.upscale), tiles, counts, works)


class PictureObserver(Protocol):
    """One picture's. A UserError that `begins` or `advances` raises is this picture's; all else ends the work.

    begins: before anything of it is computed; a picture that does not fit into memory has none.
    advances: of a tiled picture, as its tiles are done: how many of the plan's count, and what share (0 to 1) of
    its arithmetic that is. An untiled one is computed at once, and says nothing.
    ends: it is computed, or it has failed; its file is yet to be written.
    """

    def begins(self, plan: Plan) -> None: ...

    def advances(self, tiles: int, share: float) -> None: ...

    def ends(self) -> None: ...


class TileWatch:
    """A `tiling.Watch` of one picture: parts' tiles as the whole picture's."""

    def __init__(self, advances: Callable[[int, float], None], plan: Plan) -> None:
        """advances: as a PictureObserver's."""
        self._advances, self._plan = advances, plan

    def __call__(self, part: str, done: int, count: int) -> None:
        if not done:
            return
        counts, works = self._plan.counts, self._plan.works
        before = list(counts)[: list(counts).index(part)]
        work = sum(works[name] for name in before) + works[part] * done / count
        self._advances(sum(counts[name] for name in before) + done, work / self._plan.work)
