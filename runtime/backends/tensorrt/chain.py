"""Open the chain of a bundle of TensorRT or TensorRT-RTX engines, and say what it will take on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

from passionsr_trt.engines.bundle.backends import TensorRTTarget
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.tensorrt.library import has_driver
from passionsr_trt.runtime.backends.loading import OpenOptions, check_one
from passionsr_trt.runtime.backends.tensorrt.bindings import open_device
from passionsr_trt.runtime.backends.tensorrt.buffers import SLOTS, bytes_of, every
from passionsr_trt.runtime.backends.tensorrt.engine import TensorRTEngine
from passionsr_trt.runtime.backends.tensorrt.executor import DeviceExecutor
from passionsr_trt.runtime.core.chain import Chain


@dataclass(frozen=True)
class DeviceMemory:
    """GPU memory of an executor's buffers; engines' weights are loaded and no longer free."""

    executor: DeviceExecutor
    parts: Sequence[PartInfo]
    most_pixels: int  # that the engines take at once

    @property
    def free(self) -> int:
        """Bytes that nobody has taken, and those that the executor would give up."""
        with self.executor.device.current():
            return self.executor.device.free_memory() + self.executor.held()

    def predict(self, picture: int, at_once: Mapping[str, int]) -> int:
        """The largest scratch memory, by the pixels, and every part's tensors: in place, and staged twice."""
        engines = self.executor.engines
        scratch = max(
            engines[part.name].most_scratch * at_once[part.name] / self.most_pixels for part in self.parts
        )
        tensors = 0.0
        for part in self.parts:
            for tensor in (*part.inputs, part.output):
                pixels = at_once[part.name] / tensor.stride**2 if tensor.stride else 1
                tensors += bytes_of((tensor.channels,)) * pixels
        return round(scratch + (1 + SLOTS) * tensors)


def open_chain(bundle: EngineBundle, options: OpenOptions) -> Chain:
    """Check and load a bundle's engines on GPU 0."""
    check_one(options.streams, f"{bundle.folder}: engines for {bundle.backend}")
    if not has_driver():
        raise UserError(
            f"{bundle.folder}: engines for {bundle.backend}",
            "expected an NVIDIA GPU and its driver to run them",
            "run them where there is one, or build with --backend openvino",
        )
    target = bundle.target
    assert isinstance(target, TensorRTTarget)
    cuda_graph = options.cuda_graph
    device = open_device()
    engines: dict[str, TensorRTEngine] = {}
    try:
        with device.current():
            for part in bundle.parts:
                path = bundle.open(part)
                engines[part.name] = TensorRTEngine(path, bundle.backend, target.version_compatible, cuda_graph)
        executor = DeviceExecutor(device, engines, cuda_graph and not bundle.backend.compiles_on_gpu)
    except BaseException:
        with suppress(Exception), device.current():  # what failed first is told
            every(engine.close for engine in engines.values())
        with suppress(Exception):
            device.close()
        raise
    return Chain(
        bundle.model,
        bundle.parts,
        executor,
        f"{bundle.backend.label} {bundle.label}",
        limits=(target.min_size, target.max_size),
        batch=target.batch,
        memory=DeviceMemory(executor, bundle.parts, target.batch * prod(target.max_size)),
    )
