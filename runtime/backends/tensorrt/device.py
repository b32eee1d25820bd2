"""The GPU behind a small interface: primary context, streams, memory, events (pycuda), graphs (cuda-python).

The primary context is retained, never created (no `pycuda.autoinit`), so other libraries of the process share it.
Every use pushes it and pops it again: any thread may call, one at a time. `Device` is what the executor knows
of it; tests put a simulated one in its place.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import extra_of, install


class OutOfDeviceMemory(UserError):
    """The device has no room; what is not needed now may be given up for it."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"out of GPU memory ({reason})", "", "a smaller --tile needs less")


class Graph(Protocol):
    """Work that was captured from a stream; `launch` puts all of it on the stream again."""

    def launch(self) -> None: ...
    def free(self) -> None: ...


class Device(Protocol):
    """What is put on a stream runs in its order, some time later; streams order themselves by events alone."""

    def current(self) -> AbstractContextManager[None]: ...
    def stream(self) -> Any: ...
    def event(self) -> Any: ...
    def allocate(self, size: int) -> Any: ...
    def pinned(self, shape: tuple[int, ...]) -> np.ndarray: ...
    def free(self, buffer: Any) -> None: ...
    def unpin(self, array: np.ndarray) -> None: ...
    def upload(self, target: Any, source: np.ndarray, stream: Any) -> None: ...
    def copy(self, target: Any, source: Any, size: int, stream: Any) -> None: ...
    def download(self, target: np.ndarray, source: Any, stream: Any) -> None: ...
    def record(self, event: Any, stream: Any) -> None: ...
    def wait(self, event: Any, stream: Any) -> None: ...
    def synchronize(self, event: Any) -> None: ...
    def drain(self, stream: Any) -> None: ...
    def seconds_between(self, start: Any, end: Any) -> float: ...
    def capture(self, work: Callable[[], None], stream: Any) -> Graph | None: ...
    def free_memory(self) -> int: ...
    def close(self) -> None: ...


class CudaDevice:
    """GPU `index` through pycuda."""

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

    @contextmanager
    def current(self) -> Iterator[None]:
        """This device's context on the calling thread; a CUDA failure inside becomes one line."""
        with self._lock:
            self.context.push()
            try:
                yield
            except self.cuda.MemoryError as error:
                raise OutOfDeviceMemory(error) from error
            except self.cuda.Error as error:
                raise UserError(f"CUDA failed: {error}", "", "see `passionsr-trt doctor`") from error
            finally:
                self.context.pop()

    def stream(self) -> Any:
        return self.cuda.Stream()

    def event(self) -> Any:
        return self.cuda.Event()

    def allocate(self, size: int) -> Any:
        """Device memory of `size` bytes; int(result) is its address. OutOfDeviceMemory where there is no room."""
        try:
            return self.cuda.mem_alloc(max(size, 1))
        except self.cuda.MemoryError as error:
            raise OutOfDeviceMemory(error) from error

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """A page-locked float32 array, which copies run to and from without waiting."""
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
        """What is put on the stream from now on waits for the event; the host does not."""
        stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        """The host waits."""
        event.synchronize()

    def drain(self, stream: Any) -> None:
        """The host waits for all that is on a stream."""
        stream.synchronize()

    def seconds_between(self, start: Any, end: Any) -> float:
        return float(end.time_since(start)) / 1e3

    def capture(self, work: Callable[[], None], stream: Any) -> CapturedGraph | None:
        """What `work` puts on the stream as one graph, or None where cuda-python is missing or capture fails."""
        try:
            driver = importlib.import_module("cuda.bindings.driver")
        except (ImportError, OSError):
            return None
        handle = driver.CUstream(int(stream.handle))
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        if driver.cuStreamBeginCapture(handle, mode)[0] != driver.CUresult.CUDA_SUCCESS:
            return None
        try:
            work()
        except UserError:
            driver.cuStreamEndCapture(handle)  # leaves the stream usable; the graph is void
            return None
        status, graph = driver.cuStreamEndCapture(handle)
        if status != driver.CUresult.CUDA_SUCCESS:
            return None
        status, executable = driver.cuGraphInstantiate(graph, 0)
        driver.cuGraphDestroy(graph)
        return CapturedGraph(driver, executable, handle) if status == driver.CUresult.CUDA_SUCCESS else None

    def free_memory(self) -> int:
        """Bytes of the GPU's memory that nobody has taken."""
        free, _total = self.cuda.mem_get_info()
        return int(free)

    def close(self) -> None:
        """Let go of the context; all that was made of it must be gone."""
        self.context.detach()


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


INSTALL = f"in the checkout: `{install(extra_of('pycuda'))}`; it needs nvcc, or take the Docker image"
NO_GPU = "run `passionsr-trt doctor`, or build with --backend openvino"
