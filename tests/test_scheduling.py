"""How `make test` goes on where a process of it dies or hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CONFTEST = "from tests.scheduling import scheduler as pytest_xdist_make_scheduler\n"
QUIET = "import pytest\n\n@pytest.mark.parametrize('number', range(3))\ndef test_quiet(number):\n    pass\n"
# each test notes that it ran; the second ends its process
LOUD = """
import os, pathlib, signal, time

def note(name):
    with open(pathlib.Path(__file__).with_name("ran"), "a") as ran:
        print(name, file=ran)

def test_before():
    note("before")

def test_deadly():
    note("deadly")
    DEED

def test_after():
    note("after")
"""


def run(folder: Path, deed: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Three files on two processes, as `make test` runs its own."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_loud.py").write_text(LOUD.replace("DEED", deed))
    for name in ("test_other.py", "test_quiet.py", "test_last.py"):
        (folder / name).write_text(QUIET)
    words = ["-p", "no:cacheprovider", "-n", "2", "--dist", "loadscope", "-c", os.devnull, f"--rootdir={folder}"]
    command = [sys.executable, "-m", "pytest", *words, *options, str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, timeout=240, env=environment
    )


@pytest.mark.parametrize(
    ("deed", "options", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", (), "crashed while running"),
        ("time.sleep(600)", ("-o", "faulthandler_timeout=2", "-o", "faulthandler_exit_on_timeout=true"),
         "in test_deadly"),
    ],
    ids=["dies", "hangs"],
)  # fmt: skip
def test_a_test_that_ends_its_process_fails_once_and_all_others_run(
    deed: str, options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = run(tmp_path, deed, *options)
    printed = done.stdout + done.stderr
    assert "1 failed, 11 passed" in done.stdout and done.returncode == 1, printed
    assert said in printed, printed
    assert sorted((tmp_path / "ran").read_text().split()) == ["after", "before", "deadly"]


def test_a_test_that_hangs_here_ends_within_minutes(pytestconfig: pytest.Config) -> None:
    assert 0 < float(pytestconfig.getini("faulthandler_timeout")) <= 600
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True
