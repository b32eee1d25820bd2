"""A command as it is typed, and the one that comes next: each command ends by naming it."""

from __future__ import annotations

import os
import shlex

PHOTOS = "LOW_RES_PHOTOS"  # in a command that is shown: for the user to fill in
STEP = "PASSIONSR_STEP"  # set for a command that is a step of another, which says itself what comes next


def typed(*words: object) -> str:
    """A command line of this project, ready for a shell."""
    return f"passionsr-trt {shlex.join(map(str, words))}"


def say_next(*words: object) -> None:
    """Print what comes next, as a command to be typed."""
    if STEP not in os.environ:
        print(f"next: {typed(*words)}")
