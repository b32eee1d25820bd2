"""SIGTERM, SIGINT and kill -9 at random moments; the next run succeeds and leaves no temporaries."""

from __future__ import annotations

import json
import random
import signal
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import needs_torch
from tests.hostile.bench import difference, pattern
from tests.hostile.test_files import foreign
from tests.hostile.trial import NOTES, Outcome, Trial, run

# seconds after which a command is killed at the latest, and how often
LONGEST = {"infer": 4.0, "build": 9.0, "export": 12.0, "calibrate": 9.0}
COUNTS = {signal.SIGTERM: 5, signal.SIGKILL: 13, signal.SIGINT: 3}
GRACEFUL = (signal.SIGTERM, signal.SIGINT)
STEPS = {"method": "learned", "let_steps": 2, "lbq_steps": 2, "correction_steps": 2}
CHANCE = random.Random(1)
MOMENTS = [
    pytest.param(command, number, CHANCE.uniform(0.3, longest), id=f"{command} {number.name} {index}")
    for command, longest in LONGEST.items()
    for number, count in COUNTS.items()
    for index in range(count)
]


@pytest.mark.parametrize(("command", "number", "after"), MOMENTS)
def test_a_command_that_is_killed(trial: Trial, command: str, number: signal.Signals, after: float) -> None:
    folder, bench = trial.folder, trial.bench
    if command in ("export", "calibrate"):
        needs_torch()
    (folder / "in").mkdir()
    for index in range(12):
        pattern((24 + 64 * index, 16)).save(folder / "in" / f"{index:02}.png")
    pattern().save(folder / "in" / "good.png")
    (folder / "spec.json").write_text(json.dumps(STEPS), encoding="utf-8")
    line = {
        "infer": "infer in -o out --engines $INT8 --no-cache --resume",
        "build": "build-engines $ONNX -o engines",
        "export": "export $MODEL --float -o engines",
        "calibrate": "calibrate $MODEL --images in --limit 3 --spec spec.json --cache cache",
    }[command]
    words = bench.words(line)
    # `make … &` ignores SIGINT
    prepare = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    remains(run(words, folder, 20, prepare=prepare, kill=(after, number)), number, folder)
    if command == "infer":
        words = ["in/good.png" if word == "in" else word for word in words if word != "--no-cache"]
    trial.command(*words, accept=True, may=("out", "engines", "cache"), run=run, seconds=60)
    if command == "infer":
        assert not difference(folder / "out" / "good.png", bench.result)
    elif command == "calibrate":
        (entry,) = [path for path in (folder / "cache").iterdir() if not path.name.endswith(".lock")]
        assert not foreign(entry)
    else:
        assert not foreign(folder / "engines")


def remains(first: Outcome, number: signal.Signals, folder: Path) -> None:
    """The end of the run that was killed. kill -9 may leave temporaries, no half pictures."""
    if number in GRACEFUL:
        assert "Traceback (most recent" not in first.err
        assert not [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != NOTES], first
        assert first.status in (0, 128 + signal.SIGINT, 128 + number, -number), first
    for path in (folder / "out").glob("[!.]*"):
        with Image.open(path) as image:
            image.load()
