"""One TensorRT or TensorRT-RTX engine on the GPU. Nothing but enqueues: memory and order are the chain's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.user_cache import read_cached, write_cached
from passionsr_trt.engines.tensorrt.library import load_tensorrt

CACHE = "tensorrt-rtx"  # the folder of compiled kernels in the user's cache folder


class TensorRTEngine:
    """A deserialized engine with one execution context whose activation memory is lent by the chain.

    Engines that carry host code (version-compatible ones) are refused unless `host_code` says otherwise:
    they would run code from the file.
    """

    def __init__(self, path: Path, backend: str, host_code: bool = False, cuda_graph: bool = True) -> None:
        self.trt = load_tensorrt(backend)
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
        self._cache: Any = None
        self._cache_file = ""
        if backend == "tensorrt-rtx":
            self.context = self._rtx_context(plan, cuda_graph)
        else:
            strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            self.context = self.engine.create_execution_context(strategy)
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self.input, self.output = names
        if self.engine.get_tensor_mode(self.input) != self.trt.TensorIOMode.INPUT:
            self.input, self.output = self.output, self.input

    def _rtx_context(self, plan: bytes, cuda_graph: bool) -> Any:
        """RTX compiles its kernels on the device: they are kept in a runtime cache of this engine; it also
        captures CUDA graphs itself."""
        trt = self.trt
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if cuda_graph:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = config.create_runtime_cache()
        self._cache_file = cache_file(plan, trt.__version__)
        if (kept := read_cached(CACHE, self._cache_file)) is not None:
            self._cache.deserialize(kept)
        config.set_runtime_cache(self._cache)
        return self.engine.create_execution_context(config)

    def prepare(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Set the input's shape; returns the output's, and the bytes of activation memory it takes."""
        if not self.context.set_input_shape(self.input, shape):
            low, _best, high = self.engine.get_tensor_profile_shape(self.input, 0)
            raise UserError(
                f"{self.input}: shape {list(shape)} is outside what the engine was built for",
                f"expected {list(low)} to {list(high)}",
                "build with --min-size and --max-size, or set --tile",
            )
        size = int(self.context.update_device_memory_size_for_shapes())
        return tuple(self.context.get_tensor_shape(self.output)), size

    def bind(self, source: Any, target: Any, activations: Any, size: int) -> None:
        """Addresses on the device for the next enqueues."""
        self.context.set_device_memory(int(activations), size)
        self.context.set_tensor_address(self.input, int(source))
        self.context.set_tensor_address(self.output, int(target))

    def enqueue(self, stream: Any) -> None:
        if not self.context.execute_async_v3(int(stream.handle)):
            raise UserError("TensorRT could not enqueue the engine", "", "see the messages above")

    def close(self) -> None:
        """Keep RTX's compiled kernels, then let go of everything in the order TensorRT wants."""
        if self._cache is not None:
            write_cached(CACHE, self._cache_file, bytes(self._cache.serialize()))
        self._cache = self.context = self.engine = self._runtime = None


def cache_file(plan: bytes, version: str) -> str:
    """Name of the file of the kernels that RTX compiled for this engine and version."""
    return f"{hashlib.sha256(plan + version.encode()).hexdigest()[:16]}.rtx-cache"
