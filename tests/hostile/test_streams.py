"""Streams that are closed, full, narrow or no UTF-8; files and memory that run out."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.bench import difference, pattern
from tests.hostile.trial import Outcome, Run, Trial, run

MAY = ("out", "engines")
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONIOENCODING": "latin-1"}
EMPTY = {"HOME": "/nowhere", "XDG_CACHE_HOME": "", "PASSIONSR_CACHE": "", "COLUMNS": "1", "TERM": "dumb"}
LONG = {"COLUMNS": "99999999", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "x"}
COMMANDS = {
    "infer": "infer in -o out --engines $INT8",
    "infer bad": "infer in bad.png -o out --engines $INT8",
    "infer wrong": "infer in -o out --engines $INT8 --tile x",
    "build": "build-engines $ONNX -o engines",
    "build wrong": "build-engines nowhere -o engines",
    "help": "infer --help",
    "doctor": "doctor",
}


LOCALES = {"ASCII": ASCII, "POSIX": POSIX, "latin-1": LATIN, "no home": EMPTY, "odd": LONG}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("more", LOCALES.values(), ids=LOCALES)
def test_a_locale_changes_nothing(trial: Trial, more: dict[str, str], command: str) -> None:
    accept = None if command == "doctor" else command in ("infer", "build", "help")
    begin(trial, command, partial(run, more=more), accept=accept)


def begin(trial: Trial, command: str, runner: Run, **expected: Any) -> None:
    (trial.folder / "in").mkdir()
    for stem in ("plain", "grün 🦊 ×"):
        pattern().save(trial.folder / "in" / f"{stem}.png")
    (trial.folder / "bad.png").write_text("no picture")
    outcome = trial.command(*trial.bench.words(COMMANDS[command]), run=runner, may=MAY, seconds=60, **expected)
    if outcome.status == 0 and command == "infer":
        for path in (trial.folder / "in").iterdir():
            assert not difference(trial.folder / "out" / path.name, trial.bench.result)
    assert outcome.status or command in ("infer", "build", "help", "doctor")


def full(label: str, argv: list[str], folder: Path, seconds: float) -> Outcome:
    with Path("/dev/full").open("wb") as full:
        return run(argv, folder, seconds, **streams(label, full))


def streams(label: str, target: Any) -> dict[str, Any]:
    return {name: target for name in ("stdout", "stderr") if label in (name, "both")}


def closed(label: str, argv: list[str], folder: Path, seconds: float) -> Outcome:
    def close() -> None:
        for number, name in ((1, "stdout"), (2, "stderr")):
            if label in (name, "both"):
                os.close(number)

    return run(argv, folder, seconds, prepare=close)


def broken(label: str, argv: list[str], folder: Path, seconds: float) -> Outcome:
    """A pipe whose reader is gone, as `| head` leaves it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return run(argv, folder, seconds, **streams(label, writing))
    finally:
        os.close(writing)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("label", ("stdout", "stderr", "both"))
@pytest.mark.parametrize("way", (full, closed, broken))
def test_a_stream_that_nothing_can_be_said_on(trial: Trial, way: Any, label: str, command: str) -> None:
    def deaf(argv: list[str], folder: Path, seconds: float) -> Outcome:
        outcome = way(label, argv, folder, seconds)
        # 120 is the interpreter's own, where it cannot flush at its end
        return replace(outcome, status=1) if outcome.status == 120 else outcome

    begin(trial, command, deaf, errors=0)


def limit(name: str, amount: int) -> None:
    kind = getattr(resource, f"RLIMIT_{name}")
    resource.setrlimit(kind, (amount, amount))


@pytest.mark.parametrize(("name", "amount"), (("NOFILE", 12), ("FSIZE", 999), ("AS", 2**30)))
def test_files_and_memory_that_run_out(trial: Trial, name: str, amount: int) -> None:
    begin(trial, "infer", partial(run, prepare=partial(limit, name, amount)), errors=0)


def test_standard_input_that_is_closed(trial: Trial) -> None:
    begin(trial, "infer", partial(run, prepare=partial(os.close, 0)), accept=True)
