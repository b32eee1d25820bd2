"""SIGTERM, SIGINT and kill -9 at random moments; the next run succeeds and leaves no temporaries."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.hostile.bench import Bench, difference, pattern
from tests.hostile.files import foreign
from tests.hostile.harness import Case, Outcome, Trial
from tests.hostile.processes import killed, run

KIND = "kills"
COUNT = 10
LONGEST = {"infer": 4.0, "build": 9.0}  # seconds after which a command is killed at the latest
GRACEFUL = (signal.SIGTERM, signal.SIGINT)


def cases() -> Iterator[Case]:
    chance = random.Random(1)
    for command, longest in LONGEST.items():
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            for index in range(COUNT if number != signal.SIGINT else 3):
                after = chance.uniform(0.3, longest)
                name = f"{command} {number.name} {index} after {after:.2f} s"
                yield Case(name, KIND, partial(_make, command, number, after))


def _make(command: str, number: signal.Signals, after: float, folder: Path, bench: Bench) -> Trial:
    (folder / "in").mkdir()
    for index in range(12):
        pattern((24 + 64 * index, 16)).save(folder / "in" / f"{index:02}.png")
    pattern().save(folder / "in" / "good.png")
    if command == "infer":
        argv = ["infer", "in", "-o", "out", "--engines", str(bench.int8), "--no-cache", "--resume"]
        again = ["infer", "in/good.png", "-o", "out", "--engines", str(bench.int8), "--resume"]
    else:
        argv = again = ["build-engines", str(bench.onnx_int8), "-o", "engines"]

    def both(where: Path) -> Outcome:
        first = killed(argv, where, after, number)
        fault = remains(first, number, where)
        second = run(again, where, 60)
        if fault:
            return Outcome(second.status, second.out, second.err, fault, first.hung, first.seconds)
        return second

    def right(_outcome: Outcome) -> str:
        if command == "build":
            return foreign(folder / "engines")
        return difference(folder / "out" / "good.png", bench.result)

    return Trial(argv, True, right, may=("out", "engines"), run=both, seconds=60)


def remains(first: Outcome, number: signal.Signals, folder: Path) -> str:
    """What is wrong with the end of the run that was killed. kill -9 may leave temporaries, no half pictures."""
    from PIL import Image

    if first.hung:
        return f"Killed: not gone 20 s after {number.name}"
    if number in GRACEFUL:
        if "Traceback (most recent" in first.err:
            return first.err
        if hidden := [str(path.relative_to(folder)) for path in folder.rglob(".*")]:
            return f"Killed: {number.name} leaves {hidden[:3]} (status {first.status}: {first.err[-300:]!r})"
        if first.status not in (0, 128 + signal.SIGINT, 128 + number, -number):
            return f"Killed: status {first.status} after {number.name}: {first.err[-200:]!r}"
    for path in (folder / "out").glob("[!.]*"):
        try:
            with Image.open(path) as image:
                image.load()
        except OSError as error:
            return f"Killed: {path.name} is half a picture ({error})"
    return ""
