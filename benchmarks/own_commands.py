"""Our own commands, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def command(*words: object) -> None:
    """`passionsr-trt WORDS`; CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "passionsr_trt.runtime.main", *map(str, words)], check=True)
