"""The chain on a GPU: three engines on one stream, latents that never leave the device, shared scratch memory.

Order of work for one image: copy in → encoder → UNet → decoder → copy out. Host buffers come in pairs, so that
while the GPU works on one image the host reads and writes its neighbours (`run_many`). After one warm-up enqueue
each part is captured as a CUDA graph (TensorRT; TensorRT-RTX captures its own); where that fails, and on any shape
before its first run, engines are enqueued one by one. Events between the parts give the seconds of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.bundles import PART_NAMES, EngineBundle
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.tensorrt.library import has_driver
from passionsr_trt.runtime.backends.tensorrt.device import CapturedGraph, GpuDevice
from passionsr_trt.runtime.backends.tensorrt.engine import TensorRTEngine
from passionsr_trt.runtime.chain import Chain, sample_posterior

TENSORS = ("image", "latent", "clean_latent", "image_out")
SLOTS = 2


@dataclass
class Buffers:
    """Everything of one input shape: tensor shapes and device addresses, host pairs, graphs once captured."""

    shapes: dict[str, tuple[int, ...]]
    device: dict[str, Any]
    activations: Any
    activation_size: int
    host_in: list[np.ndarray]
    host_out: list[np.ndarray]
    graphs: dict[str, CapturedGraph]


@dataclass
class PartBuffers:
    """What one part alone needs for one input shape."""

    name: str
    source: Any
    target: Any
    host_in: np.ndarray
    host_out: np.ndarray


class PartOnDevice:
    """One part alone, from array to array; for tiles and comparisons."""

    def __init__(self, chain: TensorRTChain, name: str) -> None:
        self.chain, self.name = chain, name

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Nothing: buffers are made when the first input comes."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.chain.run_alone(self.name, x)


class TensorRTChain(Chain):
    """Engines of one bundle on GPU 0. Use from any thread, one at a time; `close` frees everything."""

    def __init__(self, bundle: EngineBundle, cuda_graph: bool = True) -> None:
        if not has_driver():
            raise UserError(
                f"{bundle.folder}: engines for {bundle.backend}",
                "expected an NVIDIA GPU and its driver to run them",
                "run them where there is one, or build with --backend openvino",
            )
        host_code = bool(bundle.target.get("version_compatible"))
        self.device = GpuDevice()
        self.trt: dict[str, TensorRTEngine] = {}
        self.buffers: Buffers | None = None
        self.alone: PartBuffers | None = None
        self.cuda_graph = cuda_graph and bundle.backend == "tensorrt"
        name = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[bundle.backend]
        smallest, largest = (tuple(bundle.target[key]) for key in ("min_size", "max_size"))
        super().__init__(
            bundle.model,
            {part: PartOnDevice(self, part) for part in PART_NAMES},
            f"{name} {bundle.label}",
            limits=(smallest, largest),
            batch=bundle.target.get("batch", 1),
        )
        try:
            with self.device.current():
                for part in bundle.parts:
                    path = bundle.open(part)
                    self.trt[part.name] = TensorRTEngine(path, bundle.backend, host_code, cuda_graph)
        except BaseException:
            self.close()
            raise

    def stages(self, image: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
        with self.device.current():
            self._prepare(image.shape)
            result = self._collect(self._submit(image, 0, seed))
            between = {name: self._fetch(name) for name in ("latent", "clean_latent")}
        return {"image": image, **between, "image_out": result}

    def run(self, image: np.ndarray, seed: int = 0) -> np.ndarray:
        return next(self.run_many([image], seed))

    def run_many(self, images: Iterable[np.ndarray], seed: int = 0) -> Iterator[np.ndarray]:
        """As `run` for each image, in order; an image is asked for while the GPU works on the one before."""
        waiting: deque[tuple[int, list[Any]]] = deque()
        for index, image in enumerate(images):
            while waiting and (len(waiting) == SLOTS or not self._fits(image.shape)):
                yield self._finish(waiting.popleft())
            with self.device.current():
                self._prepare(image.shape)
                waiting.append(self._submit(image, index % SLOTS, seed))
        while waiting:
            yield self._finish(waiting.popleft())

    def run_alone(self, name: str, x: np.ndarray) -> np.ndarray:
        """One part, in buffers of its own, which stay for the next input of this shape."""
        with self.device.current():
            if self.alone is None or (self.alone.name, self.alone.host_in.shape) != (name, x.shape):
                self._forget()
                shape, size = self.trt[name].prepare(x.shape)
                source, target = self.device.allocate(x.nbytes), self.device.allocate(4 * int(np.prod(shape)))
                self.trt[name].bind(source, target, self.device.allocate(size), size)
                pinned = self.device.pinned(x.shape), self.device.pinned(shape)
                self.alone = PartBuffers(name, source, target, *pinned)
            own = self.alone
            own.host_in[...] = x
            self.device.upload(own.source, own.host_in)
            self.trt[name].enqueue(self.device.stream)
            self.device.download(own.host_out, own.target)
            self.device.stream.synchronize()
            return own.host_out.copy()

    def close(self) -> None:
        """Free graphs, buffers, engines, the context; safe to call twice."""
        if self.device.closed:
            return
        with suppress(UserError), self.device.current():
            self._forget()
            for engine in self.trt.values():
                engine.close()
        self.trt.clear()
        self.device.close()

    def _forget(self) -> None:
        """Free graphs and buffers."""
        if self.buffers is not None:
            for graph in self.buffers.graphs.values():
                graph.free()
            self.buffers = None
        self.alone = None
        self.device.release()

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return self.buffers is not None and self.buffers.shapes["image"] == shape

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Buffers for this input shape; nothing to do where it is the last one's."""
        if self._fits(shape):
            return
        self._forget()
        try:
            encoded, first = self.trt["vae_encoder"].prepare(shape)
            latent = encoded
            if self.model.posterior != "mode":
                latent = (encoded[0], encoded[1] // 2, *encoded[2:])
            clean, second = self.trt["unet"].prepare(latent)
            output, third = self.trt["vae_decoder"].prepare(clean)
            shapes = dict(zip((*TENSORS, "encoded"), (shape, latent, clean, output, encoded), strict=True))
            size = max(first, second, third)
            self.buffers = Buffers(
                shapes,
                {name: self.device.allocate(4 * int(np.prod(of))) for name, of in shapes.items()},
                self.device.allocate(size),
                size,
                [self.device.pinned(shape) for _ in range(SLOTS)],
                [self.device.pinned(output) for _ in range(SLOTS)],
                {},
            )
            self._bind()
            for name in PART_NAMES:  # one enqueue of each before any is captured
                self.trt[name].enqueue(self.device.stream)
            self.device.stream.synchronize()
            if self.cuda_graph:
                self._capture()
        except BaseException:
            self._forget()
            raise

    def _bind(self) -> None:
        assert self.buffers is not None
        memory, scratch, size = self.buffers.device, self.buffers.activations, self.buffers.activation_size
        latent = "latent" if self.model.posterior == "mode" else "encoded"
        self.trt["vae_encoder"].bind(memory["image"], memory[latent], scratch, size)
        self.trt["unet"].bind(memory["latent"], memory["clean_latent"], scratch, size)
        self.trt["vae_decoder"].bind(memory["clean_latent"], memory["image_out"], scratch, size)

    def _capture(self) -> None:
        assert self.buffers is not None
        for name, engine in self.trt.items():
            graph = self.device.capture(lambda engine=engine: engine.enqueue(self.device.stream))
            if graph is not None:
                self.buffers.graphs[name] = graph

    def _submit(self, image: np.ndarray, slot: int, seed: int) -> tuple[int, list[Any]]:
        """Put one image's whole work on the stream; returns the slot and the events between its parts."""
        assert self.buffers is not None
        self.buffers.host_in[slot][...] = image
        self.device.upload(self.buffers.device["image"], self.buffers.host_in[slot])
        events = [self.device.event()]
        for name in PART_NAMES:
            if name in self.buffers.graphs:
                self.buffers.graphs[name].launch()
            else:
                self.trt[name].enqueue(self.device.stream)
            events.append(self.device.event())
            if name == "vae_encoder" and self.model.posterior != "mode":
                latent = sample_posterior(self._fetch("encoded"), self.model, seed)
                self.device.upload(self.buffers.device["latent"], np.ascontiguousarray(latent))
                self.device.stream.synchronize()
        self.device.download(self.buffers.host_out[slot], self.buffers.device["image_out"])
        events.append(self.device.event())
        return slot, events

    def _finish(self, ticket: tuple[int, list[Any]]) -> np.ndarray:
        with self.device.current():
            return self._collect(ticket)

    def _collect(self, ticket: tuple[int, list[Any]]) -> np.ndarray:
        """Wait for one image; an array of its own, and `seconds` of its parts."""
        assert self.buffers is not None
        slot, events = ticket
        events[-1].synchronize()
        for name, start, end in zip(PART_NAMES, events[:3], events[1:4], strict=True):
            self.seconds[name] = self.device.seconds_between(start, end)
        return self.buffers.host_out[slot].copy()

    def _fetch(self, name: str) -> np.ndarray:
        """A device tensor as an array, after all work put on the stream so far."""
        assert self.buffers is not None
        host = np.empty(self.buffers.shapes[name], np.float32)
        self.device.download(host, self.buffers.device[name])
        self.device.stream.synchronize()
        return host
