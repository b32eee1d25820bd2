"""A number and what it counts, in one or in several."""

from __future__ import annotations


def counted(number: int, one: str) -> str:
    """`1 image`, `3 images`; one: a word that takes an s."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"
