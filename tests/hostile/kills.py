"""SIGTERM, SIGINT and kill -9 at random moments; the next run succeeds and leaves no temporaries."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.conftest import HAS_TORCH
from tests.hostile.bench import Bench, difference, pattern
from tests.hostile.files import foreign
from tests.hostile.harness import Case, Outcome, Trial
from tests.hostile.processes import killed, run

KIND = "kills"
# seconds after which a command is killed at the latest, and how often
LONGEST = {"infer": 4.0, "build": 9.0, "export": 12.0, "calibrate": 9.0}
COUNTS = {signal.SIGTERM: 5, signal.SIGKILL: 13, signal.SIGINT: 3}
NEED_TORCH = ("export", "calibrate")
GRACEFUL = (signal.SIGTERM, signal.SIGINT)
STEPS = {"method": "learned", "let_steps": 2, "lbq_steps": 2, "correction_steps": 2}


def cases() -> Iterator[Case]:
    chance = random.Random(1)
    for command, longest in LONGEST.items():
        if command in NEED_TORCH and not HAS_TORCH:
            continue
        for number, count in COUNTS.items():
            for index in range(count):
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
    elif command == "build":
        argv = again = ["build-engines", str(bench.onnx_int8), "-o", "engines"]
    elif command == "export":
        argv = again = ["export", str(bench.model), "--float", "-o", "engines"]
    else:
        (folder / "spec.json").write_text(json.dumps(STEPS), encoding="utf-8")
        argv = again = ["calibrate", str(bench.model), "--images", "in", "--limit", "3", "--spec", "spec.json"]
        argv += ["--cache", "cache"]

    def both(where: Path) -> Outcome:
        first = killed(argv, where, after, number)
        fault = remains(first, number, where)
        second = run(again, where, 60)
        if fault:
            return Outcome(second.status, second.out, second.err, fault, first.hung, first.seconds)
        return second

    def right(_outcome: Outcome) -> str:
        if command in ("build", "export"):
            return foreign(folder / "engines")
        if command == "calibrate":
            (entry, *others) = [path for path in (folder / "cache").iterdir() if not path.name.endswith(".lock")]
            return f"left: {others}" if others else foreign(entry)
        return difference(folder / "out" / "good.png", bench.result)

    return Trial(argv, True, right, may=("out", "engines", "cache"), run=both, seconds=60)


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
