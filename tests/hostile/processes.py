"""Commands in processes of their own, with streams, locales and signals as users and systems have them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.hostile.harness import Outcome

COMMAND = [sys.executable, "-m", "passionsr_trt.runtime.main"]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(
    argv: list[str],
    folder: Path,
    seconds: float,
    more: Mapping[str, str] | None = None,
    stdout: Any = subprocess.PIPE,
    stderr: Any = subprocess.PIPE,
    prepare: Callable[[], None] | None = None,
) -> Outcome:
    """A command to its end; what is no pipe is not read. prepare: called in the child."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *argv], cwd=folder, env=environment(more or {}), stdout=stdout, stderr=stderr,
        preexec_fn=prepare, start_new_session=True,
    )  # fmt: skip
    hung = False
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        hung = True
        process.kill()
        out, err = process.communicate()
    texts = [(text or b"").decode("utf-8", errors="replace") for text in (out, err)]
    return Outcome(process.returncode, *texts, hung=hung, seconds=time.perf_counter() - start)


def killed(argv: list[str], folder: Path, after: float, number: signal.Signals, seconds: float = 20) -> Outcome:
    """A command that is sent a signal after some seconds, then waited for."""
    start = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *argv],
            cwd=folder,
            env=environment({}),
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # `make … &` ignores it
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        try:
            process.wait(seconds)
            hung = False
        except subprocess.TimeoutExpired:
            hung = True
            process.kill()
            process.wait()
    text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    (folder / "log").unlink()
    return Outcome(process.returncode, "", text, hung=hung, seconds=time.perf_counter() - start)
