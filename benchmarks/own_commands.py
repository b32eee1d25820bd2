"""Our own commands, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def peak_mib(command: list[str]) -> float:
    """Run a command; its peak resident memory in MiB, at least this process's own. SystemExit where it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} failed")
    return usage.ru_maxrss / 1024


def own(*words: object) -> list[str]:
    """`passionsr-trt WORDS` as a command line."""
    return [sys.executable, "-m", "passionsr_trt.runtime.main", *map(str, words)]


def command(*words: object) -> None:
    """`passionsr-trt WORDS`; CalledProcessError where it fails."""
    subprocess.run(own(*words), check=True)
