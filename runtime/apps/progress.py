"""How a run over pictures is seen at work: on a terminal a bar, elsewhere lines at an interval, both on stderr.

Before each picture a line says what it will be.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from passionsr_trt.engines.common.bar import INTERVAL, Bar
from passionsr_trt.engines.common.errors import printable
from passionsr_trt.runtime.apps.estimate import Estimate, about, ticking
from passionsr_trt.runtime.core.observing import Plan

FORM = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}{postfix}]"


class Progress:
    """Of pictures that count by their pixels. label: of what makes them; weights: picture → pixels, at least 1;
    streams: pictures that may be under way at once. A context: the bar is gone after it.
    """

    def __init__(self, label: str, weights: Mapping[Path, int], streams: int = 1) -> None:
        self.estimate, self.streams = Estimate(weights), streams
        self.made = self.failed = 0
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = Bar(total=1.0, desc=label, bar_format=FORM, disable=not self.terminal)
        self._what, self._said = "", time.monotonic()
        self._lock = threading.RLock()
        self._ticking = ExitStack()

    def __enter__(self) -> Progress:
        self._ticking.enter_context(ticking(self.show))  # while a large tile is computed or a file written
        return self

    def __exit__(self, *_error: object) -> None:
        self._ticking.close()
        self.bar.close()

    def observer(self, source: Path) -> Observed:
        """Of one picture, by the name that it was given with."""
        return Observed(self, source)

    def say(self, line: str) -> None:
        Bar.write(printable(line), file=sys.stderr)

    def ended(self, source: Path, failed: bool) -> None:
        """A picture's file is written, or it failed."""
        with self._lock:
            self.failed += failed
            self.made += not failed
            self.estimate.ended(source, failed)
        self.show("")

    def began(self, source: Path, plan: Plan) -> None:
        with self._lock:
            self.estimate.at(source, 0.0, plan.share(0) if plan.tiles else 1.0)
            at_once = min(self.streams, len(self.estimate.shares))
            seconds = self.estimate.seconds(self.estimate.weights[source] * at_once)
            self._what = ": ".join(filter(None, (source.name, plan.doing(0))))
        self.say(f"{source}: {plan}{'' if seconds is None else f', {about(seconds)}'}")

    def advanced(self, source: Path, share: float, tile: float, what: str) -> None:
        with self._lock:
            self.estimate.at(source, share, tile)
        self.show(f"{source.name}: {what}")

    def show(self, what: str | None = None) -> None:
        """What is done now. what: is under way, None: as before."""
        with self._lock:
            self._what = self._what if what is None else what
            done, seconds = self.estimate.now()
            left = f"{about(seconds)} left" if seconds else ""
            failed = f"{self.failed} failed" if self.failed else ""
            count = len(self.estimate.weights)
            pictures = f"{self.made} of {count} written" if count > 1 else ""
            line = ", ".join(filter(None, (left, pictures, failed, self._what)))
            if self.terminal:
                self.bar.set_postfix_str(printable(line), refresh=False)
                self.bar.n = done
                self.bar.refresh()
            elif time.monotonic() - self._said >= INTERVAL and done < 1:
                self._said = time.monotonic()
                self.say(f"{done:.0%}, {line}" if line else f"{done:.0%}")


class Observed:
    """A PictureObserver that tells a Progress."""

    def __init__(self, progress: Progress, source: Path) -> None:
        self._progress, self._source = progress, source
        self._plan: Plan | None = None

    def begins(self, plan: Plan) -> None:
        self._plan = plan
        self._progress.began(self._source, plan)

    def advances(self, tiles: int, share: float) -> None:
        assert self._plan is not None
        self._progress.advanced(self._source, share, self._plan.share(tiles), self._plan.doing(tiles))

    def ends(self) -> None:
        self._progress.advanced(self._source, 1.0, 0.0, "writing")
