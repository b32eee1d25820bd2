"""How far the work is, and how long the rest will take; it is told after every tile, and every second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from passionsr_trt.runtime.apps.serving.forecast import Forecast, about
from passionsr_trt.runtime.apps.serving.sessions import CancelToken

Report = Callable[[float, str], None]  # share that is done, and what is under way
TICK = 1.0  # seconds between two reports
MOST = 0.95  # of a tile that counts as done before it is
SURE = 0.1  # share of the work after which its own pace is believed


class Meter:
    """works: multiply-accumulates of every picture; expected: seconds of them all, None: nobody knows.

    The share within a tile is an extrapolation: it never reaches the tile's end before the tile does.
    """

    def __init__(self, token: CancelToken, report: Report, works: Sequence[float], expected: float | None) -> None:
        self.token, self._report, self._works, self._expected = token, report, works, expected
        self._began = self._since = time.monotonic()
        self._before = 0.0  # work of the pictures before this one
        self._name, self._plan = "", Forecast((0, 0), (0, 0), {}, {})
        self._tiles: dict[str, int] = {}  # part → how many are done
        self._counts: dict[str, int] = {}  # of how many
        self._lock = threading.Lock()

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Report every second, from another thread, until the context ends."""
        ended = threading.Event()

        def tick() -> None:
            while not ended.wait(TICK):
                self._tell()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def picture(self, index: int, plan: Forecast, name: str) -> Iterator[None]:
        """One of them is under way, until it is done or has failed."""
        with self._lock:
            self._name, self._plan, self._since = name, plan, time.monotonic()
            self._before = sum(self._works[:index])
            self._tiles, self._counts = dict.fromkeys(plan.tiles, 0), dict(plan.tiles)
        self._tell()
        try:
            yield
        finally:
            with self._lock:
                self._name = ""

    def watch(self, part: str, done: int, count: int) -> None:
        """A `tiling.Watch`. Raises Cancelled."""
        self.token.check()
        with self._lock:
            self._tiles[part], self._counts[part], self._since = done, count, time.monotonic()
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            if self._name:
                self._report(*self._state(time.monotonic()))

    def _state(self, now: float) -> tuple[float, str]:
        """The share that is done, and a line."""
        done, tile = self._before, 0.0
        for part, tiles in self._tiles.items():
            each = self._plan.work[part] / self._counts[part]
            done += tiles * each
            if not tile and tiles < self._counts[part]:
                tile = each
        total = max(sum(self._works), self._before + self._plan.total)
        whole = self._expected
        if done / total > SURE:
            whole = (self._since - self._began) * total / done
        if whole:
            done += min((now - self._since) / whole * total, MOST * tile)
        facts = self._tile()
        if whole is not None and tile:
            facts.append(f"{about(whole * (1 - done / total))} left")
        return done / total, ": ".join(filter(None, [self._name, ", ".join(facts)]))

    def _tile(self) -> list[str]:
        """Which one is under way, of all parts'; nothing of what is not cut."""
        done, count = sum(self._tiles.values()), sum(self._counts.values())
        if done == count:
            return ["finishing"]
        return [f"tile {done + 1} of {count}"] if any(each > 1 for each in self._counts.values()) else []
