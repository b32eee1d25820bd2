"""The real bindings without a GPU: test_cuda_devices.py on a driver that keeps its device in host memory.

$PASSIONSR_NULL_CUDA names the folder of such a libcuda.so.1. Its switches: NULL_CUDA_LAZY=1, streams run as late
as they may; NULL_CUDA_FILL, the byte that fresh memory holds; NULL_CUDA_MEMORY in MiB; NULL_CUDA_LEAKS=1, at
exit one line of what was not given back; NULL_CUDA_LOG_FILE, where that goes, and a FAULT for every wrong call.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from passionsr_trt.runtime.backends.tensorrt.bindings import BINDINGS, Binding

from tests.conftest import ROOT

FOLDER = os.environ.get("PASSIONSR_NULL_CUDA", "")
pytestmark = pytest.mark.skipif(
    not (Path(FOLDER) / "libcuda.so.1").is_file() or not FOLDER,
    reason="$PASSIONSR_NULL_CUDA names no folder with a libcuda.so.1",
)
LEFT = re.compile(r"at exit: (.*?); most memory")


def run_on_null_driver(words: list[str], log: Path, lazy: bool = True) -> subprocess.CompletedProcess[str]:
    """A Python process on the null driver; `log` gets its faults and what is left at its end."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "NULL_CUDA_"))
    }
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (FOLDER, os.environ.get("LD_LIBRARY_PATH"))))
    variables |= {"NULL_CUDA_LAZY": str(int(lazy)), "NULL_CUDA_FILL": "0xff", "NULL_CUDA_MEMORY": "64"}
    variables |= {"NULL_CUDA_LEAKS": "1", "NULL_CUDA_LOG_FILE": str(log)}
    return subprocess.run(
        [sys.executable, *words], env=variables, cwd=ROOT, capture_output=True, text=True, check=False
    )


def body(binding: Binding, chosen: str, log: Path, lazy: bool = True) -> str:
    """Run tests of the body with a binding; all of them must run and pass. Returns the driver's log."""
    package = binding.package.split(".")[0]
    seen = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)",
        ],
        check=False,
    )
    if seen.returncode:  # asked in another process: tests may have put one of their own here
        pytest.skip(f"{binding.name} is not installed")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"{binding.name} and {chosen}"]
    done = run_on_null_driver([*words, "tests/runtime/test_cuda_devices.py"], log, lazy)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0 and " passed" in last and "skipped" not in last, done.stdout + done.stderr
    return log.read_text(encoding="utf-8")


@pytest.mark.parametrize("lazy", [True, False], ids=["late", "at once"])
@pytest.mark.parametrize("binding", BINDINGS, ids=lambda binding: binding.name)
def test_work_is_right_with_the_real_bindings_and_nothing_is_left(
    binding: Binding, lazy: bool, tmp_path: Path
) -> None:
    log = body(binding, "not planted", tmp_path / "log", lazy)
    assert "FAULT" not in log, log
    (left,) = LEFT.findall(log)
    assert set(re.findall(r"\d+", left)) == {"0"}, left


@pytest.mark.parametrize("binding", BINDINGS, ids=lambda binding: binding.name)
def test_planted_faults_are_found_with_the_real_bindings(binding: Binding, tmp_path: Path) -> None:
    body(binding, "planted", tmp_path / "log")
