"""The one OpenVINO core of a process, which lives as long as the process does.

Each core's CPU plug-in gives the thread that makes it a stack for signals of its own, and restores the one before
when the plug-in goes (OpenVINO 2026.4.1, on CPUs with large registers). Where two of them go in another order than
last come, first gone, what is restored is memory that is no more: the next Ctrl-C or SIGTERM ends Python with a
segmentation fault, without a word.
"""

from __future__ import annotations

from functools import cache

import openvino as ov


@cache
def the_core() -> ov.Core:
    """Made at the first call."""
    return ov.Core()
