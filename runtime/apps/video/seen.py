"""How a clip is seen at work: frames that are done, how many a second, the time that is left, what is broken."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from passionsr_trt.engines.common.bar import INTERVAL, Bar
from passionsr_trt.engines.common.errors import printable
from passionsr_trt.runtime.apps.estimate import Estimate, about, ticking

FORM = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}{postfix}]"
ENDLESS = "{desc}: [{elapsed}{postfix}]"


class FrameProgress:
    """Of one clip. total: about how many frames there are, None where nobody knows; done: by an earlier run. A
    context: the bar is gone after it.
    """

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self.total, self.done, self.failed = total, done, 0
        self._before, self._began = done, time.monotonic()
        self.estimate = Estimate({"frame": 1.0})
        self.estimate.at("frame", done)  # so often
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        form = ENDLESS if total is None else FORM
        self.bar = Bar(total=total, initial=done, desc=label, bar_format=form, disable=not self.terminal)
        self._said = time.monotonic()
        self._ticking = ExitStack()

    def __enter__(self) -> FrameProgress:
        if self.terminal:
            self._ticking.enter_context(ticking(self.bar.refresh))
        return self

    def __exit__(self, *_error: object) -> None:
        self._ticking.close()
        self.bar.close()

    def say(self, line: str) -> None:
        Bar.write(printable(line), file=sys.stderr)

    def moved(self, failed: int) -> None:
        """One more frame is done. failed: of all so far."""
        self.done += 1
        self.failed = failed
        self.estimate.at("frame", self.done)
        line = self.line()
        if self.terminal:
            self.bar.set_postfix_str(line, refresh=False)
            self.bar.update(1)
        elif time.monotonic() - self._said >= INTERVAL:
            self._said = time.monotonic()
            share = "" if self.total is None else f"{min(1.0, self.done / self.total):.0%}, "
            self.say(f"{share}{line}")

    def ended(self) -> str:
        """`48 frames in 7.1 s, 6.8 a second`: of this run, with decoding and encoding."""
        frames, seconds = self.done - self._before, max(time.monotonic() - self._began, 1e-9)
        return f"{frames} frames in {seconds:.1f} s, {frames / seconds:.3g} a second"

    def line(self) -> str:
        """`120 of 267 frames, 12.3 a second, about 2 min left, 1 broken`."""
        frames = f"{self.done} frames" if self.total is None else f"{self.done} of {self.total} frames"
        each = self.estimate.seconds(1)
        left = None if self.total is None else self.estimate.seconds(max(0, self.total - self.done))
        told = (
            frames,
            f"{1 / each:.3g} a second" if each else "",
            f"{about(left)} left" if left else "",
            f"{self.failed} broken" if self.failed else "",
        )
        return ", ".join(filter(None, told))
