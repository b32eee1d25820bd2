"""Strict JSON from files that a user may hand in: plain files of a sane size, one object, no key twice."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from passionsr_trt.engines.common.errors import UserError

MOST_BYTES = 64 << 20


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file. `what` it is expected to be: for messages. FileNotFoundError where it is missing.

    UserError for anything else: a pipe, a folder, other encodings, a key twice, nesting without end.
    """
    expected = f"expected {what}"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is no file", expected)
        if status.st_size > MOST_BYTES:
            raise UserError(f"{path}: {status.st_size} bytes", f"{expected} of at most {MOST_BYTES}")
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_key_twice)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", expected) from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep", expected) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})", expected) from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object", expected)
    return data


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _value in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
