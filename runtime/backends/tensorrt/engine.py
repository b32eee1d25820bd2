"""TensorRT and TensorRT-RTX engines on the GPU. Nothing but enqueues: memory and order are the executor's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from passionsr_trt.engines.bundle.backends import Backend
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.user_cache import read_cached, write_cached
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
        self._runtime = self.trt.Runtime(self.trt.Logger(self.trt.Logger.WARNING))
        self._runtime.engine_host_code_allowed = host_code
        plan = path.read_bytes()
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise UserError(
                f"{path}: {backend} {self.trt.__version__} cannot load it",
                "expected an engine for this GPU and version",
                "build it here with build-engines",
            )
        self.most_scratch = int(self.engine.device_memory_size_v2)
        self._config: Any = None
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
            raise OutOfDeviceMemory("TensorRT made no execution context")
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                low, _best, high = self.engine.get_tensor_profile_shape(name, 0)
                raise UserError(
                    f"{name}: shape {list(shape)} is outside what the engine was built for",
                    f"expected {list(low)} to {list(high)}",
                    "build with --min-size and --max-size, or set --tile",
                )
        return TensorRTContext(context)

    def close(self) -> None:
        """Keep RTX's compiled kernels, then let go of everything in the order TensorRT wants."""
        if self._config is not None:
            write_cached(self._backend.name, self._cache_file, bytes(self._cache.serialize()))
            self._cache = None
        self._config = self.engine = self._runtime = None


class TensorRTContext:
    """One execution context."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.scratch = int(context.update_device_memory_size_for_shapes())

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        self._context.set_device_memory(scratch, self.scratch)
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)

    def enqueue(self, stream: Any) -> None:
        if not self._context.execute_async_v3(int(stream.handle)):
            raise UserError("TensorRT could not enqueue the engine", "", "see the messages above")


def cache_file(plan: bytes, version: str) -> str:
    """Name of the file of the kernels that RTX compiled for this engine and version."""
    return f"{hashlib.sha256(plan + version.encode()).hexdigest()[:16]}.rtx-cache"
