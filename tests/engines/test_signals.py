"""A signal ends the work, whatever it interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from passionsr_trt.engines.common.signals import ended_by_signal

# the signal arrives in the callback of a module's lock, while the command's libraries are imported
IN_AN_IMPORT = """
import os, signal, sys

def profile(frame, event, _argument):
    if event == "call" and frame.f_code.co_name == "cb" and "importlib" in frame.f_code.co_filename:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.NUMBER)

from passionsr_trt.runtime import picture_cli
from passionsr_trt.runtime.main import main
command = picture_cli._run_infer
def run(arguments):
    sys.setprofile(profile)
    return command(arguments)
picture_cli._run_infer = run
status = main(["infer", "no-such-picture.png"])
assert sys.getprofile() is None, "the signal was sent"
sys.exit(status)
"""


class Dying:
    """Sends a signal when it goes."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.skipif(sys.platform == "win32", reason="a process ends there without a word")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_python_drops_ends_the_work_all_the_same(number: int) -> None:
    before = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ended_by_signal():
        Dying(number)
        for _ in range(600):
            time.sleep(0.1)
    assert (sys.unraisablehook, signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.skipif(sys.platform == "win32", reason="a process ends there without a word")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_while_libraries_are_imported_ends_the_command(number: str) -> None:
    code = IN_AN_IMPORT.replace("NUMBER", number)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
