"""How far a run over pictures is, and how long the rest takes: for infer's terminal and for serve's page.

The time comes from tiles and pictures that are done, without what came before the first: loading and compiling.
Until there are some it comes from an earlier run, where there was one. Between two tiles work is taken to go on
at that pace, but never to the tile's end before the tile does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
TICK = 1.0  # seconds between two looks at what is under way
MOST = 0.95  # of a tile that counts as done before it is


class Estimate(Generic[K]):
    """weights: picture → its work, in pixels or multiply-accumulates; pace: seconds for one of them as an earlier
    run took, None: nobody knows.
    """

    def __init__(self, weights: Mapping[K, float], pace: float | None = None) -> None:
        self.weights, self.total, self._pace = weights, sum(weights.values()), pace
        self._done = self._lost = 0.0  # work of pictures that are done, of pictures that failed
        self.shares: dict[K, float] = {}  # of pictures under way
        self._tiles: dict[K, float] = {}  # of the same: the share of the tile that is computed now
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)
        self._moved = time.monotonic()

    def at(self, picture: K, share: float, tile: float = 0.0) -> None:
        """So much of a picture is done; tile: the share that is computed now."""
        self.shares[picture], self._tiles[picture] = share, tile
        self._saw()

    def ended(self, picture: K, failed: bool) -> None:
        """A picture is done, or nothing comes of it."""
        self.shares.pop(picture, None)
        self._tiles.pop(picture, None)
        if failed:
            self._lost += self.weights[picture]
        else:
            self._done += self.weights[picture]
        self._saw()

    def seconds(self, work: float) -> float | None:
        """That some work takes; None where not even a hundredth of so much was seen, and nobody knows."""
        (now, done), (began, before) = self._last, self._first or self._last
        if done - before >= max(work / 100, 1):
            return work * (now - began) / (done - before)
        return None if self._pace is None else work * self._pace

    def now(self) -> tuple[float, float | None]:
        """The share of all that is done, and how many seconds the rest takes."""
        done = self._seen() + self._lost
        left = max(self.total - done, 0.0)
        seconds = self.seconds(left)
        if seconds:
            tiles = sum(share * self.weights[picture] for picture, share in self._tiles.items())
            ahead = min((time.monotonic() - self._moved) * left / seconds, MOST * tiles)
            done, seconds = done + ahead, seconds * (1 - ahead / left)
        return done / (self.total or 1), seconds

    def _seen(self) -> float:
        """Work that was done; what failed says nothing of the pace."""
        return self._done + sum(share * self.weights[picture] for picture, share in self.shares.items())

    def _saw(self) -> None:
        self._moved, done = time.monotonic(), self._seen()
        if done > self._last[1]:
            self._last = self._moved, done
            self._first = self._first or self._last


@contextmanager
def ticking(tell: Callable[[], None]) -> Iterator[None]:
    """Call it every second, from another thread, until the context ends."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(TICK):
            tell()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def about(seconds: float) -> str:
    """`about 2 min`: rounded as far as such a number is to be believed."""
    for unit, name, most in ((1, "s", 90), (60, "min", 5400)):
        if seconds < most:
            return f"about {max(1, round(seconds / unit))} {name}"
    return f"about {seconds / 3600:.1f} h"
