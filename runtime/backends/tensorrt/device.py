"""The GPU behind a small interface: primary context, one stream, memory, events (pycuda), graphs (cuda-python).

The primary context is retained, never created (no `pycuda.autoinit`), so other libraries of the process share it.
Every use pushes it and pops it again: any thread may call, one at a time.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.errors import UserError


class GpuDevice:
    """One CUDA device with one stream; `close` frees all that was allocated through it."""

    def __init__(self, index: int = 0) -> None:
        try:
            self.cuda = importlib.import_module("pycuda.driver")
        except (ImportError, OSError) as error:
            raise UserError(
                f"pycuda is not installed ({error})", "expected it to run TensorRT engines", INSTALL
            ) from None
        try:
            self.cuda.init()
            self.context = self.cuda.Device(index).retain_primary_context()
        except self.cuda.Error as error:
            raise UserError(f"no usable NVIDIA GPU ({error})", "expected one with its driver", NO_GPU) from None
        self._lock = threading.RLock()
        self._owned: list[Any] = []
        self.closed = False
        with self.current():
            self.stream = self.cuda.Stream()

    @contextmanager
    def current(self) -> Iterator[None]:
        """This device's context on the calling thread; a CUDA failure inside becomes one line."""
        with self._lock:
            self.context.push()
            try:
                yield
            except self.cuda.MemoryError as error:
                raise UserError(f"out of GPU memory ({error})", "", "a smaller --tile needs less") from error
            except self.cuda.Error as error:
                raise UserError(f"CUDA failed: {error}", "", "see `passionsr-trt doctor`") from error
            finally:
                self.context.pop()

    def allocate(self, size: int) -> Any:
        """Device memory of `size` bytes; int(result) is its address."""
        self._owned.append(self.cuda.mem_alloc(max(size, 1)))
        return self._owned[-1]

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """A page-locked float32 array, which copies run to and from without waiting."""
        array: np.ndarray = self.cuda.pagelocked_empty(shape, np.float32)
        self._owned.append(array.base)
        return array

    def upload(self, target: Any, source: np.ndarray) -> None:
        self.cuda.memcpy_htod_async(target, source, self.stream)

    def download(self, target: np.ndarray, source: Any) -> None:
        self.cuda.memcpy_dtoh_async(target, source, self.stream)

    def event(self) -> Any:
        """An event recorded now on the stream; `seconds_between` two of them."""
        event = self.cuda.Event()
        event.record(self.stream)
        return event

    @staticmethod
    def seconds_between(start: Any, end: Any) -> float:
        return float(end.time_since(start)) / 1e3

    def capture(self, work: Callable[[], None]) -> CapturedGraph | None:
        """What `work` puts on the stream as one graph, or None where cuda-python is missing or capture fails."""
        try:
            driver = importlib.import_module("cuda.bindings.driver")
        except (ImportError, OSError):
            return None
        stream = driver.CUstream(int(self.stream.handle))
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        if driver.cuStreamBeginCapture(stream, mode)[0] != driver.CUresult.CUDA_SUCCESS:
            return None
        try:
            work()
        except UserError:
            driver.cuStreamEndCapture(stream)  # leaves the stream usable; the graph is void
            return None
        status, graph = driver.cuStreamEndCapture(stream)
        if status != driver.CUresult.CUDA_SUCCESS:
            return None
        status, executable = driver.cuGraphInstantiate(graph, 0)
        driver.cuGraphDestroy(graph)
        return CapturedGraph(driver, executable, stream) if status == driver.CUresult.CUDA_SUCCESS else None

    def release(self) -> None:
        """Free every buffer; the device can be used on."""
        with self.current():
            self.stream.synchronize()
            while self._owned:
                self._owned.pop().free()

    def close(self) -> None:
        """Free everything and let go of the context."""
        self.release()
        with self.current():
            del self.stream
        self.context.detach()
        self.closed = True


class CapturedGraph:
    """An instantiated CUDA graph and the stream that it runs on."""

    def __init__(self, driver: Any, executable: Any, stream: Any) -> None:
        self._driver, self._executable, self._stream = driver, executable, stream

    def launch(self) -> None:
        (status,) = self._driver.cuGraphLaunch(self._executable, self._stream)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise UserError(f"a CUDA graph could not be launched ({status.name})", "", "run with --no-cuda-graph")

    def free(self) -> None:
        self._driver.cuGraphExecDestroy(self._executable)


INSTALL = "`pip install passionsr-trt[cuda]`; it needs nvcc, or take the Docker image"
NO_GPU = "run `passionsr-trt doctor`, or build with --backend openvino"
