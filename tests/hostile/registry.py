"""Every case by its class; the one explicit list."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from tests.conftest import HAS_TORCH
from tests.hostile.harness import Case

KINDS = ("pictures", "names", "options", "bundles", "files", "models", "pickles", "uploads", "streams", "kills")
NEED_TORCH = ("models", "pickles")


def cases(kind: str) -> list[Case]:
    """All cases of a class in their order, names told apart; none of a class that cannot be run here."""
    if kind in NEED_TORCH and not HAS_TORCH:
        return []
    found = list(importlib.import_module(f"tests.hostile.{kind}").cases())
    assert len({case.name for case in found}) == len(found), f"{kind}: two cases of one name"
    return found


def chosen(only: Sequence[str] | None = None, limit: int | None = None, match: str | None = None) -> list[Case]:
    """The cases of some classes, `limit` of each, evenly spread."""
    result = []
    for kind in only or KINDS:
        found = [case for case in cases(kind) if match is None or match in case.name]
        step = max(1, -(-len(found) // limit)) if limit else 1
        result += found[::step]
    return result
