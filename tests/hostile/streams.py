"""Streams that are closed, full, narrow or no UTF-8; files and memory that run out."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.bench import Bench, difference, pattern
from tests.hostile.harness import Case, Outcome, Trial
from tests.hostile.processes import run

KIND = "streams"
MAY = ("out", "engines")
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN = {"PYTHONIOENCODING": "latin-1"}
EMPTY = {"HOME": "/nowhere", "XDG_CACHE_HOME": "", "PASSIONSR_CACHE": "", "COLUMNS": "1", "TERM": "dumb"}
LONG = {"COLUMNS": "99999999", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "x"}
COMMANDS = {
    "infer": ["infer", "in", "-o", "out", "--engines", "$INT8"],
    "infer bad": ["infer", "in", "bad.png", "-o", "out", "--engines", "$INT8"],
    "infer wrong": ["infer", "in", "-o", "out", "--engines", "$INT8", "--tile", "x"],
    "build": ["build-engines", "$ONNX", "-o", "engines"],
    "build wrong": ["build-engines", "nowhere", "-o", "engines"],
    "help": ["infer", "--help"],
    "doctor": ["doctor"],
}


def cases() -> Iterator[Case]:
    for command in COMMANDS:
        for label, more in {
            "ASCII": ASCII,
            "POSIX": POSIX,
            "latin-1": LATIN,
            "no home": EMPTY,
            "odd": LONG,
        }.items():
            yield Case(f"{command} {label}", KIND, partial(_make, command, partial(run, more=more), None))
        for label in ("stdout", "stderr", "both"):
            yield Case(f"{command} {label} full", KIND, partial(_make, command, partial(_full, label), label))
            yield Case(f"{command} {label} closed", KIND, partial(_make, command, partial(_closed, label), label))
            yield Case(
                f"{command} {label} nobody reads", KIND, partial(_make, command, partial(_broken, label), label)
            )
    yield Case(
        "infer stdin closed", KIND, partial(_make, "infer", partial(run, prepare=partial(os.close, 0)), None)
    )
    yield Case(
        "infer few files", KIND, partial(_make, "infer", partial(run, prepare=partial(_limit, "NOFILE", 12)), "")
    )
    yield Case(
        "infer small files", KIND, partial(_make, "infer", partial(run, prepare=partial(_limit, "FSIZE", 999)), "")
    )
    yield Case(
        "infer little memory",
        KIND,
        partial(_make, "infer", partial(run, prepare=partial(_limit, "AS", 2**30)), ""),
    )


Runner = Callable[..., Outcome]


def _make(command: str, runner: Runner, deaf: str | None, folder: Path, bench: Bench) -> Trial:
    """deaf: the streams that nothing can be said on; an empty word where the command may fail as it likes."""
    (folder / "in").mkdir()
    for stem in ("plain", "grün 🦊 ×"):
        pattern().save(folder / "in" / f"{stem}.png")
    (folder / "bad.png").write_text("no picture")
    argv = [
        {"$INT8": str(bench.int8), "$ONNX": str(bench.onnx_int8)}.get(word, word) for word in COMMANDS[command]
    ]

    def start(where: Path) -> Outcome:
        outcome = runner(argv, where, 60)
        if deaf is not None and outcome.status == 120:  # the interpreter's own, where it cannot flush at its end
            return Outcome(1, outcome.out, outcome.err, seconds=outcome.seconds)
        return outcome

    def right(_outcome: Outcome) -> str:
        if command != "infer":
            return "" if command in ("build", "help", "doctor") else "exit 0"
        faults = [difference(folder / "out" / path.name, bench.result) for path in (folder / "in").iterdir()]
        return next(filter(None, faults), "")

    if deaf is not None:
        return Trial(argv, None, right, errors=None, may=MAY, run=lambda where: spoken(start(where)), seconds=60)
    accept = None if command == "doctor" else command in ("infer", "build", "help")
    return Trial(argv, accept, right, may=MAY, run=start, seconds=60)


def spoken(outcome: Outcome) -> Outcome:
    """As if it had told its error, where nobody could hear it."""
    if outcome.status in (1, 2) and not outcome.error_lines:
        return Outcome(
            outcome.status, outcome.out, outcome.err + "\nerror: not to be heard", seconds=outcome.seconds
        )
    return outcome


def _full(label: str, argv: list[str], folder: Path, seconds: float) -> Outcome:
    with Path("/dev/full").open("wb") as full:
        return run(argv, folder, seconds, **_streams(label, full))


def _streams(label: str, target: Any) -> dict[str, Any]:
    return {name: target for name in ("stdout", "stderr") if label in (name, "both")}


def _closed(label: str, argv: list[str], folder: Path, seconds: float) -> Outcome:
    def close() -> None:
        for number, name in ((1, "stdout"), (2, "stderr")):
            if label in (name, "both"):
                os.close(number)

    return run(argv, folder, seconds, prepare=close)


def _broken(label: str, argv: list[str], folder: Path, seconds: float) -> Outcome:
    """A pipe whose reader is gone, as `| head` leaves it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return run(argv, folder, seconds, **_streams(label, writing))
    finally:
        os.close(writing)


def _limit(name: str, amount: int) -> None:
    kind = getattr(resource, f"RLIMIT_{name}")
    resource.setrlimit(kind, (amount, amount))
