"""`Device` on pycuda, which nvcc compiles where it is installed: where cuda-python is not wanted."""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.tensorrt.library import DRIVER
from passionsr_trt.runtime.backends.tensorrt.device import NO_GPU, OutOfDeviceMemory
from passionsr_trt.runtime.backends.tensorrt.graphs import CapturedGraph, capture, graph_driver

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda has no name for


class PycudaDevice:
    """GPU `index`. UserError where there is none that pycuda can use."""

    def __init__(self, index: int = 0) -> None:
        self.cuda = importlib.import_module("pycuda.driver")
        try:
            self.cuda.init()
            self.context = self.cuda.Device(index).retain_primary_context()
        except self.cuda.Error as error:
            raise UserError(f"no usable NVIDIA GPU ({error})", "expected one with its driver", NO_GPU) from None
        self._lock = threading.RLock()

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._lock, self._told():
            self.context.push()
            try:
                yield
            finally:
                self.context.pop()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A failure of pycuda's as a UserError."""
        try:
            yield
        except self.cuda.MemoryError as error:
            raise OutOfDeviceMemory(error) from error
        except self.cuda.Error as error:
            raise UserError(f"CUDA failed: {error}", "", "see `passionsr-trt doctor`") from error

    def stream(self) -> Any:
        return self.cuda.Stream(NON_BLOCKING)

    def event(self) -> Any:
        return self.cuda.Event()

    def destroy(self, made: Any) -> None:
        """Nothing: pycuda destroys what nobody refers to."""

    def allocate(self, size: int) -> Any:
        with self._told():
            return self.cuda.mem_alloc(max(size, 1))

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        with self._told():
            array: np.ndarray = self.cuda.pagelocked_empty(shape, np.float32)
        return array

    def free(self, buffer: Any) -> None:
        buffer.free()

    def unpin(self, array: np.ndarray) -> None:
        base: Any = array.base
        base.free()

    def upload(self, target: Any, source: np.ndarray, stream: Any) -> None:
        self.cuda.memcpy_htod_async(target, source, stream)

    def copy(self, target: Any, source: Any, size: int, stream: Any) -> None:
        self.cuda.memcpy_dtod_async(target, source, size, stream)

    def download(self, target: np.ndarray, source: Any, stream: Any) -> None:
        self.cuda.memcpy_dtoh_async(target, source, stream)

    def record(self, event: Any, stream: Any) -> None:
        event.record(stream)

    def wait(self, event: Any, stream: Any) -> None:
        stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        event.synchronize()

    def drain(self, stream: Any) -> None:
        stream.synchronize()

    def seconds_between(self, start: Any, end: Any) -> float:
        return float(end.time_since(start)) / 1e3

    def capture(self, work: Callable[[], None], stream: Any) -> CapturedGraph | None:
        """Through cuda-python, and only where that is installed too."""
        driver = graph_driver()
        return None if driver is None else capture(driver, self._telling(work), int(stream.handle))

    def _telling(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, whose failures are UserErrors."""

        def told() -> None:
            with self._told():
                work()

        return told

    def free_memory(self) -> int:
        free, _total = self.cuda.mem_get_info()
        return int(free)

    def close(self) -> None:
        # pycuda releases what is current to it, on any thread; it would leave that on the driver's own stack
        self.context.push()
        ctypes.CDLL(DRIVER).cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        self.context.detach()
