"""The user's cache folder, and files there that help where they can be kept and are missed by nobody.

| set                  | folder                                                            |
| -------------------- | ----------------------------------------------------------------- |
| $PASSIONSR_CACHE     | that one                                                          |
| nothing, on Linux    | $XDG_CACHE_HOME/passionsr-trt, without it ~/.cache/passionsr-trt  |
| nothing, on macOS    | ~/Library/Caches/passionsr-trt                                    |
| nothing, on Windows  | %LOCALAPPDATA%\\passionsr-trt                                      |
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.writing import write_atomic

PROJECT = "passionsr-trt"
VARIABLE = "PASSIONSR_CACHE"


def cache_folder(name: str) -> Path:
    """The sub-folder `name` of the user's cache folder for this project; it is not created.

    Raises OSError where the user has no home folder and no variable names another.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser() / name
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else _home() / "AppData" / "Local") / PROJECT / name
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / PROJECT / name
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the XDG base directory specification: a relative path counts as none
    return (shared if shared.is_absolute() else _home() / ".cache") / PROJECT / name


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # a container's user may have none
        raise FileNotFoundError(str(error)) from None


def read_cached(name: str, file: str) -> bytes | None:
    """A file of the cache folder `name`; None where it is not there or cannot be read."""
    try:
        return (cache_folder(name) / file).read_bytes()
    except OSError:
        return None


def write_cached(name: str, file: str, content: bytes) -> bool:
    """Keep a file in the cache folder `name`; False where that cannot be, which one line on stderr says."""
    if read_cached(name, file) == content:  # a cache that others filled may be read-only
        return True
    try:
        folder = cache_folder(name)
    except OSError as error:
        _warn(f"no cache folder ({error})")
        return False
    try:
        write_atomic(folder / file, content)
    except UserError:
        _warn(f"{folder}: the cache cannot be written")
        return False
    return True


@contextmanager
def one_at_a_time(output: Path, work: str) -> Iterator[None]:
    """One process at a time that does `work` on an output folder; a second one says so and waits."""
    name = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16]
    try:
        folder = cache_folder("locks")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home to keep it in
        folder = output.resolve().parent
    lock = FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{output}: another process is {work} it; waiting", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@cache  # once, however many files
def _warn(fact: str) -> None:
    print(f"warning: {fact}; the next start is no faster; ${VARIABLE} may name another folder", file=sys.stderr)
