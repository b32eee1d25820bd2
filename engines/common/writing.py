"""Files that are written whole or not at all, and folders that are tried before the work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import prefix, temporary_folder


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; UserError where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix(), dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)  # mkstemp's files are their owner's alone
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})", "expected room on the disk") from None


def check_writable(folder: Path) -> None:
    """Fail before the work, not after it, where the folder cannot take a file; leaves nothing behind.

    What earlier runs that were killed left there is removed. A folder that is missing is tried under a name of
    this process: others may be making it, or trying it too.
    """
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place) or place == place.parent)
    try:
        with temporary_folder(there) as trial:
            tried = trial / folder.relative_to(there)
            tried.mkdir(parents=True, exist_ok=True)
            handle, _name = tempfile.mkstemp(dir=tried)
            os.close(handle)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})", "expected a writable folder") from None
