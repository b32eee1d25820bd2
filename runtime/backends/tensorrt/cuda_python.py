"""`Device` on cuda-python's driver bindings: wheels alone, no compiler, on Windows too. The default."""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.runtime.backends.tensorrt.device import NO_GPU, OutOfDeviceMemory
from passionsr_trt.runtime.backends.tensorrt.graphs import CapturedGraph, capture


@dataclass(frozen=True)
class Stream:
    """handle: CUDA's own."""

    handle: int


@dataclass(frozen=True)
class Event:
    handle: int


class CudaPythonDevice:
    """GPU `index`. UserError where there is none that these bindings can use."""

    def __init__(self, index: int = 0) -> None:
        self._driver = driver = importlib.import_module("cuda.bindings.driver")
        self._lock = threading.RLock()
        with needs_gpu():
            self._call(driver.cuInit, 0)
            installed = int(self._call(driver.cuDriverGetVersion))
        check_version(installed, int(driver.CUDA_VERSION))
        with needs_gpu():
            self._device = self._call(driver.cuDeviceGet, index)
            self._context = self._call(driver.cuDevicePrimaryCtxRetain, self._device)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a call of the driver gives; OutOfDeviceMemory or UserError where it fails."""
        try:
            status, *results = function(*arguments)
        except RuntimeError as error:  # no driver's library is there, or it lacks the call
            raise UserError(f"CUDA failed: {reason_of(error)}", "", "see `passionsr-trt doctor`") from error
        codes = self._driver.CUresult
        if status == codes.CUDA_ERROR_OUT_OF_MEMORY:
            raise OutOfDeviceMemory(f"{function.__name__}: {status.name}")
        if status != codes.CUDA_SUCCESS:
            raise UserError(f"CUDA failed: {function.__name__}: {status.name}", "", "see `passionsr-trt doctor`")
        return results[0] if len(results) == 1 else results

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._lock:
            self._call(self._driver.cuCtxPushCurrent, self._context)
            try:
                yield
            finally:
                self._driver.cuCtxPopCurrent()

    def stream(self) -> Stream:
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return Stream(int(self._call(self._driver.cuStreamCreate, int(flags))))

    def event(self) -> Event:
        return Event(int(self._call(self._driver.cuEventCreate, 0)))

    def destroy(self, made: Stream | Event) -> None:
        if isinstance(made, Stream):
            self._call(self._driver.cuStreamDestroy, made.handle)
        else:
            self._call(self._driver.cuEventDestroy, made.handle)

    def allocate(self, size: int) -> int:
        return int(self._call(self._driver.cuMemAlloc, max(size, 1)))

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        count = math.prod(shape)
        address = int(self._call(self._driver.cuMemHostAlloc, max(4 * count, 1), 0))
        flat = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        return flat.reshape(shape)

    def free(self, buffer: int) -> None:
        self._call(self._driver.cuMemFree, buffer)

    def unpin(self, array: np.ndarray) -> None:
        self._call(self._driver.cuMemFreeHost, array.ctypes.data)

    def upload(self, target: int, source: np.ndarray, stream: Stream) -> None:
        arguments = target, source.ctypes.data, source.nbytes, stream.handle
        self._call(self._driver.cuMemcpyHtoDAsync, *arguments)

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        self._call(self._driver.cuMemcpyDtoDAsync, target, source, size, stream.handle)

    def download(self, target: np.ndarray, source: int, stream: Stream) -> None:
        arguments = target.ctypes.data, source, target.nbytes, stream.handle
        self._call(self._driver.cuMemcpyDtoHAsync, *arguments)

    def record(self, event: Event, stream: Stream) -> None:
        self._call(self._driver.cuEventRecord, event.handle, stream.handle)

    def wait(self, event: Event, stream: Stream) -> None:
        self._call(self._driver.cuStreamWaitEvent, stream.handle, event.handle, 0)

    def synchronize(self, event: Event) -> None:
        self._call(self._driver.cuEventSynchronize, event.handle)

    def drain(self, stream: Stream) -> None:
        self._call(self._driver.cuStreamSynchronize, stream.handle)

    def seconds_between(self, start: Event, end: Event) -> float:
        return float(self._call(self._driver.cuEventElapsedTime, start.handle, end.handle)) / 1e3

    def capture(self, work: Callable[[], None], stream: Stream) -> CapturedGraph | None:
        return capture(self._driver, work, stream.handle)

    def free_memory(self) -> int:
        free, _total = self._call(self._driver.cuMemGetInfo)
        return int(free)

    def close(self) -> None:
        self._call(self._driver.cuDevicePrimaryCtxRelease, self._device)


@contextmanager
def needs_gpu() -> Iterator[None]:
    """What fails inside says that there is no GPU to use."""
    try:
        yield
    except UserError as error:
        raise UserError(f"no usable NVIDIA GPU ({error.fact})", "expected one with its driver", NO_GPU) from None


def check_version(installed: int, wanted: int) -> None:
    """UserError where the driver is older than the bindings' CUDA: it lacks calls of a later major version.

    Both as CUDA has them: 1000 × major + 10 × minor.
    """
    known, needed = installed // 1000, wanted // 1000
    if known < needed:
        raise UserError(
            f"this NVIDIA driver knows CUDA {known}.{installed % 1000 // 10}",
            f"cuda-bindings {needed} expect CUDA {needed}.0 or newer",
            f'update the driver, or `pip install "cuda-bindings<{known + 1}"`',
        )
