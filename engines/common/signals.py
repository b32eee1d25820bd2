"""A signal ends the work wherever it arrives.

Python turns a signal into KeyboardInterrupt between two instructions of the main thread. Where that falls into a
callback, of a module lock while libraries are imported or of an object that dies, Python drops the exception
(`sys.unraisablehook`), and the work would go on. It is asked for again then, until it falls elsewhere.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 0.05  # seconds until a dropped signal is sent again


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """SIGTERM (docker stop) ends the work as Ctrl-C does, so that nothing half-written stays behind."""

    def end(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    told = sys.unraisablehook

    def dropped(what: sys.UnraisableHookArgs) -> None:
        stop = what.exc_value
        if isinstance(stop, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            number = stop.args[0] if stop.args else signal.SIGINT
            threading.Timer(AGAIN, _thread.interrupt_main, (number,)).start()
        else:
            told(what)

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = told
        signal.signal(signal.SIGTERM, before)
