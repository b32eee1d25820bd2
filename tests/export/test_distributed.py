"""Two processes at one calibration, as torchrun starts them (gloo): one process's result, one line of error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.calibrate.compute import Compute
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.runtime.main import main

from tests.conftest import TINY
from tests.export import networks

# two crops a step; with drawn pictures there would be four
STEPS = {"let_steps": 2, "lbq_steps": 2, "correction_steps": 2, "accumulate": 2}
LEARNED = {"method": "learned", "pictures": "photos", **STEPS}


def words(model: Path, images: Path, cache: Path, settings: dict[str, Any]) -> list[str]:
    spec = cache.with_name(f"{cache.name}.json")
    spec.write_text(json.dumps(settings))
    named = ["--images", str(images), "--spec", str(spec), "--cache", str(cache)]
    return ["calibrate", str(model), *named, "--limit", "3", "--device", "cpu"]


# the command, where one picture is lost after it was listed
LOSING = """
import sys
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.calibrate import data
from passionsr_trt.runtime.main import main

name, read, listed = sys.argv.pop(1), data.read_picture, []

def lost(path):
    if path.name == name:
        if listed:
            raise UserError(f"{path}: lost")
        listed.append(path)
    return read(path)

data.read_picture = lost
sys.exit(main(sys.argv[1:]))
"""


def by_torchrun(
    arguments: list[str], logs: Path, program: tuple[str, ...] = ("-m", "passionsr_trt.runtime.main")
) -> tuple[int, list[str], str]:
    """The exit status; each process's errors; what all of them print."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    own = ["--redirects", "3", "--log-dir", str(logs), *program, *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *own], capture_output=True, text=True, check=False, env=variables)
    errors = [path.read_text() for path in sorted(logs.rglob("stderr.log"))]
    return done.returncode, errors, "".join(path.read_text() for path in sorted(logs.rglob("stdout.log")))


def only(cache: Path) -> Calibration:
    (folder,) = (path.parent for path in cache.glob("*/manifest.json"))
    return Calibration.load(folder)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SwinIR", {**LEARNED, "rounding": "nearest", "granularity": "block", "attention": True}),
        ("Compact", LEARNED),
    ],
)
def test_two_processes_calibrate_as_one_does(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """To the bit: with a crop of a step each, sums have two terms."""
    model = networks.write_small(name, tmp_path / "model.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two has
    try:
        assert main(words(model, TINY, tmp_path / "alone", settings)) == 0
    finally:
        torch.set_num_threads(threads)
    status, errors, printed = by_torchrun(words(model, TINY, tmp_path / "both", settings), tmp_path / "logs")
    assert status == 0, errors
    assert printed.count("sites from 3 images") == 1, "one process speaks"
    alone, both = only(tmp_path / "alone"), only(tmp_path / "both")
    assert alone.key == both.key and alone.digest == both.digest


def test_where_one_fails_all_end_with_one_line(tmp_path: Path) -> None:
    """The second picture is the second process's; the first one waits for it in vain."""
    second = sorted(TINY.iterdir())[1]
    program = tmp_path / "losing.py"
    program.write_text(LOSING)
    model = networks.write_small("Compact", tmp_path / "model.safetensors")
    status, errors, printed = by_torchrun(
        words(model, TINY, tmp_path / "cache", {"method": "range"}), tmp_path / "logs", (str(program), second.name)
    )
    assert status != 0 and not printed and not list((tmp_path / "cache").glob("*/manifest.json"))
    said = [
        line for text in errors for line in text.splitlines() if "Traceback" in line or "error" in line.lower()
    ]
    assert len(said) == 1 and said[0].startswith("error: ") and second.name in said[0], errors


def test_crops_of_a_step_are_shared_out_evenly_or_refused() -> None:
    compute = Compute(size=3)
    compute.check_share(QuantSpec(method="learned", accumulate=6))
    compute.check_share(QuantSpec(method="range"))
    with pytest.raises(UserError, match="accumulate is 4, for 3 processes; expected a multiple of 3"):
        compute.check_share(QuantSpec(method="learned", accumulate=4))


@pytest.mark.parametrize("command", ["export", "sensitivity"])
def test_other_commands_refuse_several_processes(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ["--images", str(TINY)] if command == "sensitivity" else []
    arguments = [command, str(tmp_path / "absent"), *images, "-o", str(tmp_path / "out")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(arguments) == 2
    assert f"error: {command}: 2 processes; expected one; run it without torchrun" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and not capsys.readouterr().err
