"""TensorRT and TensorRT-RTX engines on the GPU. Nothing but enqueues: memory and order are the executor's."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from passionsr_trt.engines.bundle.backends import Backend
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.common.user_cache import read_cached, write_cached
from passionsr_trt.engines.tensorrt.features import OUT_OF_MEMORY
from passionsr_trt.engines.tensorrt.library import load_tensorrt
from passionsr_trt.runtime.backends.tensorrt.device import OutOfDeviceMemory

Shapes = Mapping[str, tuple[int, ...]]


class Context(Protocol):
    """An engine for inputs of one shape. scratch: bytes of device memory that it works in."""

    scratch: int

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        """Tensors and scratch memory, by address, for the next enqueues."""

    def enqueue(self, stream: Any) -> None: ...


class DeviceEngine(Protocol):
    """most_scratch: bytes that it works in at the largest shapes it was built for."""

    most_scratch: int

    def context(self, shapes: Shapes) -> Context: ...
    def close(self) -> None: ...


class TensorRTEngine:
    """A deserialized engine. Engines that carry host code (version-compatible ones) are refused unless `host_code`
    says otherwise: they would run code from the file.
    """

    def __init__(self, path: Path, backend: Backend, host_code: bool = False, cuda_graph: bool = True) -> None:
        self.trt, self._backend = load_tensorrt(backend), backend
        self._log = make_log(self.trt)
        self._runtime = self.trt.Runtime(self._log)
        self._runtime.engine_host_code_allowed = host_code
        plan = path.read_bytes()
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            self._runtime = None  # before the device is closed, whoever keeps the error
            raise not_loaded(path, f"{backend} {self.trt.__version__}", self._log.errors)
        self.most_scratch = int(self.engine.device_memory_size_v2)
        self._config: Any = None
        self._cache: Any = None
        if backend.compiles_on_gpu:
            self._config = self._rtx_config(plan, cuda_graph)

    def _rtx_config(self, plan: bytes, cuda_graph: bool) -> Any:
        """RTX compiles its kernels on the device: they are kept in a runtime cache of this engine; it also
        captures CUDA graphs itself."""
        trt = self.trt
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if cuda_graph:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = config.create_runtime_cache()
        self._cache_file = cache_file(plan, trt.__version__)
        if (kept := read_cached(self._backend.name, self._cache_file)) is not None:
            self._cache.deserialize(kept)
        config.set_runtime_cache(self._cache)
        return config

    def context(self, shapes: Shapes) -> TensorRTContext:
        """An execution context of its own for these shapes; its activation memory is lent by the executor."""
        if self._config is not None:
            context = self.engine.create_execution_context(self._config)
        else:
            strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self.engine.create_execution_context(strategy)
        if context is None:
            raise OutOfDeviceMemory(f"TensorRT made no execution context{last_of(self._log.errors)}")
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                low, _best, high = self.engine.get_tensor_profile_shape(name, 0)
                raise UserError(
                    f"{name}: shape {list(shape)} is outside what the engine was built for",
                    f"expected {list(low)} to {list(high)}",
                    "build with --min-size and --max-size, or set --tile",
                )
        return TensorRTContext(context, self.most_scratch, self._log.errors)

    def close(self) -> None:
        """Keep RTX's compiled kernels, then let go of everything in the order TensorRT wants."""
        try:
            if self._config is not None:
                keep_kernels(self._backend.name, self._cache_file, self._cache.serialize())
        finally:
            self._cache = None
            self._config = self.engine = self._runtime = None


class TensorRTContext:
    """One execution context. most_scratch: bytes that its engine works in at most; errors: TensorRT's messages."""

    def __init__(self, context: Any, most_scratch: int, errors: Sequence[str] = ()) -> None:
        self._context, self._errors = context, errors
        # 0 is also the answer to a failure: then room for any shape is enough
        self.scratch = int(context.update_device_memory_size_for_shapes()) or most_scratch

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        self._context.set_device_memory(scratch, self.scratch)
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise UserError(
                    f"{name}: TensorRT does not take its memory{last_of(self._errors)}",
                    "expected a tensor of this engine",
                    "build the engines again",
                )

    def enqueue(self, stream: Any) -> None:
        if not self._context.execute_async_v3(int(stream.handle)):
            raise UserError(
                f"TensorRT could not enqueue the engine{last_of(self._errors)}", "", "run `passionsr-trt doctor`"
            )


def make_log(trt: Any) -> Any:
    """A logger that prints warnings and errors to stderr, and keeps the errors' first lines in `errors`."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # a trampoline class crashes without this
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            failed = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if failed:
                self.errors.append((message.splitlines() or [""])[0])
            if failed or severity == trt.ILogger.WARNING:
                print(f"TensorRT: {message}", file=sys.stderr)

    return Log()


def last_of(errors: Sequence[str]) -> str:
    """` (the last of TensorRT's errors)`, empty where there is none."""
    return f" ({printable(errors[-1])[:200]})" if errors else ""


def not_loaded(path: Path, library: str, errors: Sequence[str]) -> UserError:
    """Why an engine's file was not loaded; TensorRT gives no engine and tells the reason to its log alone."""
    for error in errors:
        if any(word in error.lower() for word in OUT_OF_MEMORY):
            return UserError(
                f"{path}: out of GPU memory while it was loaded{last_of([error])}",
                "expected room for the engine's weights",
                "end what else uses the GPU, or build engines of a lower precision",
            )
    return UserError(
        f"{path}: {library} cannot load it{last_of(errors)}",
        "expected an engine for this GPU and version",
        "build it here with build-engines",
    )


def keep_kernels(folder: str, file: str, blob: Any) -> None:
    """Write RTX's runtime cache into the user's cache; where it gives none the next start compiles again."""
    if blob is None:
        print(
            "warning: TensorRT-RTX gave no compiled kernels to keep; the next start is no faster", file=sys.stderr
        )
        return
    write_cached(folder, file, bytes(blob))


def cache_file(plan: bytes, version: str) -> str:
    """Name of the file of the kernels that RTX compiled for this engine and version."""
    return f"{hashlib.sha256(plan + version.encode()).hexdigest()[:16]}.rtx-cache"
