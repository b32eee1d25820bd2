"""What is told of a picture on its way through a chain: what it will be, how far it is, that it is computed.

Whoever shows progress hands in an observer of its own for each picture. Several pictures may be under way at once;
all observers are called in the one thread that asks for the results, so they may share what they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from passionsr_trt.engines.bundle.wiring import PartInfo, Size
from passionsr_trt.runtime.core.planning import Tiles


@dataclass(frozen=True)
class Plan:
    """What a picture will be. given, result: (height, width); tiles: None where it is not tiled; count: how many,
    of all parts together, 0 where it is not tiled.
    """

    given: Size
    result: Size
    tiles: Tiles | None
    count: int

    def __str__(self) -> str:
        """`4000×3000 → 16000×12000, 280 tiles of 640×640 pixels`, width first."""
        sides = " → ".join(f"{width}×{height}" for height, width in (self.given, self.result))
        return f"{sides}, {self.count} {self.tiles}" if self.tiles else sides


class PictureObserver(Protocol):
    """One picture's. A UserError that `begins` or `advances` raises is this picture's; all else ends the work.

    begins: before anything of it is computed; a picture that fails before that has none.
    advances: of a tiled picture, as its tiles are done: how many of the plan's count, and what share (0 to 1) of
    its arithmetic that is. An untiled one is computed at once, and says nothing.
    ends: it is computed, or it has failed; its file is yet to be written.
    """

    def begins(self, plan: Plan) -> None: ...

    def advances(self, tiles: int, share: float) -> None: ...

    def ends(self) -> None: ...


class TileWatch:
    """A `tiling.Watch` of one picture: parts' tiles as the whole picture's."""

    def __init__(self, observer: PictureObserver, parts: Sequence[PartInfo], counts: dict[str, int]) -> None:
        """counts: part → its tiles."""
        self._observer, self._counts = observer, counts
        self._costs = {part.name: sum(site.macs for site in part.sites) or 1 for part in parts}

    def __call__(self, part: str, done: int, count: int) -> None:
        if not done:
            return
        before = list(self._counts)[: list(self._counts).index(part)]
        share = sum(self._costs[name] for name in before) + self._costs[part] * done / count
        tiles = sum(self._counts[name] for name in before) + done
        self._observer.advances(tiles, share / sum(self._costs.values()))
