"""Types of command line arguments, shared by every room."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def gibibytes(text: str) -> int:
    """An argparse type: GiB as a number → bytes."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 2**20:
        raise argparse.ArgumentTypeError(f"{text}: expected GiB, such as 3.5")
    return round(number * 2**30)


def whole(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number, at least `least`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{text}: expected at least {least}")
        return number

    return parse


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return number


def parse_size(text: str) -> tuple[int, int]:
    """`512x768` → (512, 768); both must be multiples of 64."""
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH") from None
    if height < 64 or width < 64 or height % 64 or width % 64:
        raise argparse.ArgumentTypeError(f"{text}: expected multiples of 64")
    return height, width
