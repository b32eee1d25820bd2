"""Modes: what a module computes with, and back.

| mode  | port(x), after its explicit transform | site weight                        |
| ----- | ------------------------------------- | ---------------------------------- |
| FLOAT | x                                     | float                              |
| FAKE  | Δ·nearest(clamp(x/Δ))                 | Δ·codes, as float                  |
| QDQ   | QuantizeLinear → DequantizeLinear     | codes → DequantizeLinear           |
| LEARN | as FAKE, with learned Δ, s and δ      | as FAKE, of W·s, with learned Δ    |
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Mode(enum.Enum):
    FLOAT = "float"
    FAKE = "fake"
    QDQ = "qdq"
    LEARN = "learn"


class Moded(nn.Module):
    """A module that computes by mode; `in_mode` switches it, and back.

    weight_buffers: those of its buffers that are weights, and go with its parameters into half precision.
    """

    mode: Mode = Mode.FLOAT
    weight_buffers: tuple[str, ...] = ()


@contextmanager
def in_mode(module: nn.Module, mode: Mode) -> Iterator[None]:
    """Every site, port and attention of a module in one mode while the context lasts, then in its own again."""
    moded = [found for found in module.modules() if isinstance(found, Moded)]
    before = [found.mode for found in moded]
    try:
        for found in moded:
            found.mode = mode
        yield
    finally:
        for found, own in zip(moded, before, strict=True):
            found.mode = own
