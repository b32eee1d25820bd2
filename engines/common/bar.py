"""Progress of long work on stderr: on a terminal tqdm's bar, elsewhere a line at an interval.

A log keeps every redraw of a bar. So it gets lines, each after INTERVAL seconds at least, a last one of work that
has had some, and nothing of work that ends sooner.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from tqdm import tqdm

INTERVAL = 20.0  # seconds between two lines where there is no terminal
LINE = "{desc}: {percentage:3.0f}%, {n_fmt} of {total_fmt} [{elapsed}<{remaining}{postfix}]"


class Bar(tqdm):
    """tqdm, called as it is; `write` too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        file = sys.stderr if options.get("file") is None else options["file"]
        self.lines = not (file is not None and file.isatty())
        self._said, self._spoken = time.monotonic(), False
        self.bar_format: str | None
        # miniters 1: by the clock alone, else tqdm counts on so many of the next to be as quick as the last were
        super().__init__(*arguments, **({"miniters": 1} | options if self.lines else options))
        if self.lines and not self.disable and self.total and self.bar_format is None:
            self.bar_format = LINE

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if not self.lines:
            return bool(super().display(msg, pos))
        if time.monotonic() - self._said < INTERVAL:
            return False
        self._line()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Lines stay where they are."""
        if not self.lines:
            super().clear(nolock)

    def close(self) -> None:
        if self.lines and not self.disable:
            if self._spoken and self.leave:
                self._line()
            self.delay = math.inf  # nothing of tqdm's own
        super().close()

    def _line(self) -> None:
        self._said, self._spoken = time.monotonic(), True
        self.fp.write(f"{str(self).strip()}\n")
        self.fp.flush()
