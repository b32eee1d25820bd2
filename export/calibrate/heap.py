"""What is freed goes back to the system: glibc keeps it, in pieces that the next size does not fit.

Elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD


def return_freed_memory() -> None:
    """From now on large tensors go back when they are freed: half the peak of a block-wise run. Takes time."""
    _glibc("mallopt", MMAP_THRESHOLD, 1 << 20)


def return_what_is_free() -> None:
    """What is free now goes back, once: a gigabyte after Stable Diffusion 2.1's UNet."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)  # musl has none
        if function is not None:
            function(*arguments)
