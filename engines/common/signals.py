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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

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


@contextmanager
def held_signals() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM wait until what this yields is called, which then acts on them, or until the end.

    Without it a process is lost where a signal comes while `subprocess.Popen` starts it.
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def release() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()
        while came:
            signal.raise_signal(came.pop(0))

    with suppress(ValueError):  # not the main thread, which no signal interrupts
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield release
    finally:
        release()
