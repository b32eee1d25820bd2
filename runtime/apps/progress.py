"""How a run over pictures is seen at work: on a terminal a bar, elsewhere lines at an interval, both on stderr.

Before each picture a line says what it will be. Times are told once something is known: from the first tiles or
pictures that were done, loading and compiling left out.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from passionsr_trt.engines.common.errors import printable
from passionsr_trt.runtime.core.observing import Plan
from tqdm import tqdm

INTERVAL = 20.0  # seconds between two lines where there is no terminal
FORM = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}{postfix}]"


class Progress:
    """Of pictures that count by their pixels. label: of what makes them; weights: picture → pixels, at least 1;
    streams: pictures that may be under way at once. A context: the bar is gone after it.
    """

    def __init__(self, label: str, weights: Mapping[Path, int], streams: int = 1) -> None:
        self.weights, self.streams = weights, streams
        self.made = self.failed = 0
        self.rate = Rate()
        self.total = sum(weights.values())
        self.finished = self.lost = 0  # pixels of pictures that are written, of pictures that failed
        self.shares: dict[Path, float] = {}  # of pictures under way
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(total=self.total, desc=label, bar_format=FORM, disable=not self.terminal)
        self._said = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        if self.terminal:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.bar.close()

    def _tick(self) -> None:
        """The clock moves while a large tile is computed or a file written."""
        while not self._over.wait(1.0):
            self.bar.refresh()

    def observer(self, source: Path) -> Observed:
        """Of one picture, by the name that it was given with."""
        return Observed(self, source)

    def say(self, line: str) -> None:
        tqdm.write(printable(line), file=sys.stderr)

    def ended(self, source: Path, failed: bool) -> None:
        """A picture's file is written, or it failed."""
        self.failed += failed
        self.made += not failed
        self.shares.pop(source, None)
        if failed:
            self.lost += self.weights[source]
        else:
            self.finished += self.weights[source]
        self.moved()

    def began(self, source: Path, plan: Plan) -> None:
        self.shares[source] = 0.0
        seconds = self.rate.seconds(self.weights[source] * min(self.streams, len(self.shares)))
        self.say(f"{source}: {plan}{'' if seconds is None else f', {about(seconds)}'}")

    def advanced(self, source: Path, share: float, what: str) -> None:
        self.shares[source] = share
        self.moved(f"{source.name}: {what}")

    def moved(self, what: str = "") -> None:
        """Show what is done now. what: is under way."""
        done = self.finished + sum(share * self.weights[source] for source, share in self.shares.items())
        self.rate.saw(done)  # what failed says nothing of it
        done += self.lost
        seconds = self.rate.seconds(self.total - done)
        left = "" if seconds is None else f"{about(seconds)} left"
        failed = f"{self.failed} failed" if self.failed else ""
        pictures = f"{self.made} of {len(self.weights)} written" if len(self.weights) > 1 else ""
        line = ", ".join(filter(None, (left, pictures, failed, what)))
        if self.terminal:
            self.bar.set_postfix_str(printable(line), refresh=False)
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self._said >= INTERVAL and done < self.total:
            self._said = time.monotonic()
            self.say(f"{done / self.total:.0%}, {line}" if line else f"{done / self.total:.0%}")


class Observed:
    """A PictureObserver that tells a Progress."""

    def __init__(self, progress: Progress, source: Path) -> None:
        self._progress, self._source = progress, source
        self._count = 0

    def begins(self, plan: Plan) -> None:
        self._count = plan.count
        self._progress.began(self._source, plan)

    def advances(self, tiles: int, share: float) -> None:
        self._progress.advanced(self._source, share, f"tile {tiles} of {self._count}")

    def ends(self) -> None:
        self._progress.advanced(self._source, 1.0, "writing")


class Rate:
    """How much is done a second, from the first time that anything was: before it was loading and compiling."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)

    def saw(self, done: float) -> None:
        """So much is done in all, now."""
        if done > self._last[1]:
            self._last = time.monotonic(), done
            self._first = self._first or self._last

    def seconds(self, work: float) -> float | None:
        """That some work takes, None where not even a hundredth of so much was seen."""
        if self._first is None or self._last[1] - self._first[1] < max(work / 100, 1):
            return None
        (began, before), (now, done) = self._first, self._last
        return work * (now - began) / (done - before)


def about(seconds: float) -> str:
    """`about 2 min`."""
    for unit, name, most in ((1, "s", 90), (60, "min", 5400)):
        if seconds < most:
            return f"about {max(1, round(seconds / unit))} {name}"
    return f"about {seconds / 3600:.1f} h"
