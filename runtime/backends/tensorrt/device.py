"""The GPU as the executor knows it: streams, events, memory, graphs. Tests put a simulated one in its place.

`bindings.py` opens a real one, through cuda-python or pycuda. Both retain the GPU's primary context and create
none, so that other libraries of the process share it. Every use pushes it and pops it again: any thread may call,
one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from passionsr_trt.engines.common.errors import UserError


class OutOfDeviceMemory(UserError):
    """The device has no room; what is not needed now may be given up for it."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"out of GPU memory ({reason})", "", "a smaller --tile needs less")


class Graph(Protocol):
    """Work that was captured from a stream; `launch` puts all of it on the stream again."""

    def launch(self) -> None: ...
    def free(self) -> None: ...


class Device(Protocol):
    """What is put on a stream runs in its order, some time later; streams order themselves by events alone.

    A stream's `handle` is CUDA's own, as an int. All but `current` and `close` are called inside of `current`.
    """

    def current(self) -> AbstractContextManager[None]:
        """This device's context on the calling thread; a CUDA failure inside becomes one line."""

    def stream(self) -> Any:
        """A stream that the legacy default stream neither waits for nor holds up (non-blocking)."""

    def event(self) -> Any: ...

    def destroy(self, made: Any) -> None:
        """Give back an event or a stream; nothing on it may be under way."""

    def allocate(self, size: int) -> Any:
        """Device memory of `size` bytes; int(result) is its address. OutOfDeviceMemory where there is no room."""

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """A page-locked float32 array, which copies run to and from without waiting."""

    def free(self, buffer: Any) -> None: ...
    def unpin(self, array: np.ndarray) -> None: ...
    def upload(self, target: Any, source: np.ndarray, stream: Any) -> None: ...
    def copy(self, target: Any, source: Any, size: int, stream: Any) -> None: ...
    def download(self, target: np.ndarray, source: Any, stream: Any) -> None: ...
    def record(self, event: Any, stream: Any) -> None: ...

    def wait(self, event: Any, stream: Any) -> None:
        """What is put on the stream from now on waits for the event; the host does not."""

    def synchronize(self, event: Any) -> None:
        """The host waits."""

    def drain(self, stream: Any) -> None:
        """The host waits for all that is on a stream."""

    def seconds_between(self, start: Any, end: Any) -> float: ...

    def capture(self, work: Callable[[], None], stream: Any) -> Graph | None:
        """What `work` puts on the stream as one graph; None where that cannot be captured, or graphs are missing.

        Whatever `work` raises, the stream captures no more; all but a UserError is raised again.
        """

    def free_memory(self) -> int:
        """Bytes of the GPU's memory that nobody has taken."""

    def close(self) -> None:
        """Let go of the context; all that was made of it must be gone."""


NO_GPU = "run `passionsr-trt doctor`, or build with --backend openvino"
