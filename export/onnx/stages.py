"""The progress line of an export: which part, which stage, and seconds that move while a stage lasts."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from passionsr_trt.engines.common.bar import Bar

STAGES = ("folding", "tracing", "decomposing", "translating", "optimizing", "writing", "measuring", "proving")
# how torch's exporter begins the lines that it prints where it is verbose
EXPORTER = {
    "[torch.onnx] Obtain model graph": "tracing",
    "[torch.onnx] Run decomposition": "decomposing",
    "[torch.onnx] Translate": "translating",
    "[torch.onnx] Optimize": "optimizing",
}


class Stages:
    """A tqdm line of `parts` parts in STAGES each; on a terminal it is drawn anew every second."""

    def __init__(self, parts: int) -> None:
        self.line = Bar(total=parts * len(STAGES), desc="exporting", unit="stage")
        self.parts, self.part, self.stage = 0, "", ""
        self.ended = threading.Event()
        self.ticks = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Stages:
        if sys.stderr.isatty():
            self.ticks.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.ended.set()
        if self.ticks.is_alive():
            self.ticks.join()
        if failure[0] is None:
            self.line.update(self.line.total - self.line.n)
        self.line.close()

    def _tick(self) -> None:
        while not self.ended.wait(1.0):
            self.line.refresh()

    def begin(self, part: str) -> None:
        """The next part, by its name."""
        self.part, self.stage = part, ""
        self.parts += 1

    def enter(self, stage: str) -> None:
        """One of STAGES begins; a stage that was entered already goes on."""
        if stage != self.stage:
            self.stage = stage
            done = (self.parts - 1) * len(STAGES) + STAGES.index(stage)
            self.line.set_postfix_str(f"{self.part}: {stage}", refresh=False)
            self.line.update(done - self.line.n)
            self.line.refresh()

    @contextmanager
    def of_exporter(self) -> Iterator[None]:
        """Enter stages by what torch's verbose exporter prints, which is not shown."""
        with redirect_stdout(_Lines(self)):
            yield


class _Lines(io.StringIO):
    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = stages

    def write(self, text: str) -> int:
        super().write(text)
        *lines, rest = self.getvalue().split("\n")
        for line in lines:
            stage = next((stage for start, stage in EXPORTER.items() if line.startswith(start)), None)
            if stage is not None:
                self.stages.enter(stage)
        if lines:
            self.seek(0)
            self.truncate()
            super().write(rest)
        return len(text)
