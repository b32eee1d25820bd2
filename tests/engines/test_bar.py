"""Progress of long work: a bar on a terminal, lines elsewhere, nothing there of what ends soon."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pytest
from passionsr_trt.engines.common import bar
from passionsr_trt.engines.common.bar import Bar

ROOT = Path(__file__).resolve().parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is, as the lines see it."""
    now = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    return now


def test_outside_a_terminal_there_is_a_line_per_interval_and_one_at_the_end(clock: list[float]) -> None:
    log = io.StringIO()
    with Bar(total=10, desc="work", unit="port", file=log, mininterval=0) as progress:
        for step in range(10):
            clock[0] += 7
            progress.set_postfix_str(f"step {step}")
            progress.update()
    said = [re.sub(r" \[.*, ", " [", line) for line in log.getvalue().splitlines()]
    assert "\r" not in log.getvalue()
    assert said == [f"work:  {n}0%, {n} of 10 [step {n}]" for n in (2, 5, 8)] + ["work: 100%, 10 of 10 [step 9]"]


def test_outside_a_terminal_what_ends_soon_says_nothing(clock: list[float]) -> None:
    log = io.StringIO()
    for _ in Bar(range(1000), desc="work", file=log, mininterval=0):
        clock[0] += 19 / 1000
    with Bar(total=3, file=log, leave=False) as progress:
        progress.refresh()
        Bar.write("a word", file=log)
    assert log.getvalue() == "a word\n"


def test_what_is_not_left_has_no_last_line(clock: list[float]) -> None:
    log = io.StringIO()
    for step in Bar(range(4), desc="work", file=log, mininterval=0, leave=False):
        clock[0] += 21 if step == 1 else 0
    assert len(log.getvalue().splitlines()) == 1
    endless = io.StringIO()
    for _ in Bar(iter(range(2)), desc="try", file=endless, mininterval=0):
        clock[0] += 21
    assert all(line.startswith("try: ") for line in endless.getvalue().splitlines()) and endless.getvalue()


def test_on_a_terminal_it_is_tqdm_s_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "INTERVAL", math.inf)
    terminal = Terminal()
    with Bar(total=2, desc="work", file=terminal) as progress:
        progress.update(2)
    assert "\r" in terminal.getvalue() and "work: 100%|" in terminal.getvalue() and "2/2" in terminal.getvalue()


def test_no_other_file_makes_a_bar_of_tqdm_s_own() -> None:
    files = [path for room in ("engines", "export", "runtime") for path in (ROOT / room).rglob("*.py")]
    named = [path.name for path in files if re.search(r"\btqdm\(|\(tqdm\)", path.read_text(encoding="utf-8"))]
    assert named == ["bar.py"]
