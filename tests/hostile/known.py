"""Cases that the present code fails: pattern of `class/name` → why."""

from __future__ import annotations

from fnmatch import fnmatchcase

KNOWN: dict[str, str] = {}


def known(label: str) -> str:
    """Why a case is known to fail, or nothing."""
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(label, pattern)), "")
