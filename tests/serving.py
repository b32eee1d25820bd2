"""A running `passionsr-trt serve` for tests: its own process, its own folder for temporaries."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio: [serve]")
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60  # seconds until what has to happen has happened


# the command, and a line `asks HOST` for every address that its process connects to or looks up
WATCHED = """
import sys

def told(event, given):
    if event == "socket.connect" and isinstance(given[1], tuple):
        print("asks", given[1][0], flush=True)
    elif event == "socket.getaddrinfo" and given[0]:
        print("asks", given[0], flush=True)

sys.addaudithook(told)
from passionsr_trt.runtime.main import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Served:
    """address: of the page. temporary: TMPDIR of its process."""

    address: str
    temporary: Path
    process: subprocess.Popen[str]
    log: Path

    def asked(self) -> set[str]:
        """Whom the server has turned to."""
        return set(re.findall(r"^asks (\S+)", self.log.read_text(encoding="utf-8"), re.MULTILINE))

    def files(self) -> list[str]:
        """Whatever of anybody's lies on the disk; it may vanish while one looks."""
        return [str(Path(where) / name) for where, _folders, names in os.walk(self.temporary) for name in names]


@contextmanager
def served(
    folder: Path, *engines: Path, options: tuple[str, ...] = (), prepare: Callable[[], None] | None = None
) -> Iterator[Served]:
    """The page of some engines, until the context ends; then nothing of it is left."""
    temporary, log = folder / "temporary", folder / "log.txt"
    temporary.mkdir()
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", WATCHED, "serve", "--port", port, *options]
    command += ["--engines", *map(str, engines)]
    with log.open("w", encoding="utf-8") as file:
        environment = {**os.environ, "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
            preexec_fn=prepare,
        )
        try:
            wait_for(lambda: process.poll() is not None or "until Ctrl-C" in log.read_text(encoding="utf-8"))
            found = re.search(r"http://\S+", log.read_text(encoding="utf-8"))
            assert found, log.read_text(encoding="utf-8")
            yield Served(found[0], temporary, process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
    assert list(temporary.iterdir()) == [], "something is left when the server has ended"


def wait_for(true: Callable[[], bool], otherwise: Callable[[], str] = str, seconds: float = PATIENCE) -> None:
    """Until it is true; after `seconds` it fails with what is the case otherwise."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.1)
