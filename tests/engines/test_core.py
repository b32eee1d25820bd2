"""A signal is taken after a build: OpenVINO's plug-ins leave the stack for signals as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Built

BUILT_AND_SIGNALLED = """
import faulthandler, signal, sys
faulthandler.enable()  # which gives handlers a stack of their own, as pytest does
from passionsr_trt.runtime.main import main
assert main(["build-engines", sys.argv[1], "-o", sys.argv[2]]) == 0
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("taken")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="stacks for signals are POSIX's")
def test_a_signal_after_a_build_is_no_segmentation_fault(small: Built, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILT_AND_SIGNALLED, str(small.onnx_int8), str(tmp_path / "engines")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != -signal.SIGSEGV and done.stdout.endswith("taken\n"), done.stderr
