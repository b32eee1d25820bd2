"""Names of what is not finished yet, and what becomes of it where its process was killed.

`.passionsr-HOST-PID-…` belongs to a process; the next run that writes into the folder removes those whose process
is gone. Of other machines (a shared disk, a container) only what is older than two days.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
PATTERN = re.compile(r"\.passionsr-([0-9a-f]{8})-(\d+)-")
OLD = 2 * 86400  # seconds


def prefix() -> str:
    """Of a temporary file or folder of this process."""
    return f".passionsr-{HOST}-{os.getpid()}-"


@contextmanager
def temporary_folder(place: Path | None = None) -> Iterator[Path]:
    """A folder of this process in `place`, by default where the system keeps such; gone with the context.

    What killed processes left there goes first. Raises OSError where it cannot be made.
    """
    place = Path(tempfile.gettempdir()) if place is None else place
    sweep(place)
    folder = place / f"{prefix()}{secrets.token_hex(6)}"
    try:  # named before it is made: a signal in between leaves nothing
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; what cannot be removed is left to the next run."""
    with suppress(OSError):
        for path in folder.iterdir():
            if (owner := PATTERN.match(path.name)) and _is_stale(path, owner[1], int(owner[2])):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_stale(path: Path, host: str, process: int) -> bool:
    if host != HOST:
        return time.time() - path.lstat().st_mtime > OLD
    return process != os.getpid() and not psutil.pid_exists(process)
