"""How far the work is, for the page: told after every tile, and every second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from passionsr_trt.runtime.apps.estimate import Estimate, about, ticking
from passionsr_trt.runtime.apps.serving.sessions import CancelToken
from passionsr_trt.runtime.core.observing import Plan, TileWatch

Report = Callable[[float, str], None]  # share that is done, and what is under way


class Meter:
    """works: multiply-accumulates of every picture; pace: seconds for one of them, None: nobody knows."""

    def __init__(self, token: CancelToken, report: Report, works: Sequence[float], pace: float | None) -> None:
        self.token, self._report = token, report
        self._estimate = Estimate(dict(enumerate(works)), pace)
        self._name = self._doing = ""
        self._lock = threading.Lock()

    def ticking(self) -> AbstractContextManager[None]:
        """Report every second until the context ends."""
        return ticking(self._tell)

    @contextmanager
    def picture(self, index: int, plan: Plan, name: str) -> Iterator[TileWatch]:
        """One of them is under way until it is done or has failed; its tiles are to be told. Raises Cancelled."""

        def advances(tiles: int, share: float) -> None:
            self.token.check()
            self._move(index, share, plan, tiles)

        with self._lock:
            self._name = name
        self._move(index, 0.0, plan, 0)
        try:
            yield TileWatch(advances, plan)
            with self._lock:
                self._estimate.ended(index, failed=False)
        finally:
            with self._lock:
                self._name = ""

    def failed(self, index: int) -> None:
        """Nothing comes of a picture."""
        with self._lock:
            self._estimate.ended(index, failed=True)

    def _move(self, index: int, share: float, plan: Plan, tiles: int) -> None:
        with self._lock:
            self._estimate.at(index, share, plan.share(tiles))
            self._doing = plan.doing(tiles)
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            if self._name:
                done, seconds = self._estimate.now()
                left = f"{about(seconds)} left" if seconds else ""
                facts = ", ".join(filter(None, (self._doing, left)))
                self._report(done, ": ".join(filter(None, (self._name, facts))))
