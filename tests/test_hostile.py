"""A few cases of every class of tests/hostile but the slow two; `make hostile` runs them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.hostile.registry import KINDS

SLOW = ("kills", "streams")  # a process or two for each case


@pytest.mark.slow
def test_a_sample_of_hostile_input_breaks_nothing(tmp_path: Path) -> None:
    quick = [f"--only={kind}" for kind in KINDS if kind not in SLOW]
    words = [
        sys.executable,
        "-m",
        "tests.hostile",
        "--limit",
        "5",
        "--workers",
        "1",
        "-o",
        str(tmp_path / "failures"),
    ]
    done = subprocess.run([*words, *quick], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (tmp_path / "failures").read_text() or done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines()][-1] == "all"
