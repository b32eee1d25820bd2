"""Parts on host arrays, one after another, and the memory that they take.

What a picture takes is known before it is begun: engines' weights, a tile's activations, the picture itself.

    peak = BASE + WEIGHTS · weights + Σ activations at 512² · pixels at once / 512² + (PICTURE + between) · pixels

A chain of N steps has N engines: their weights and activations are summed up like any. `between` are the chain's
small tensors, whose stride is above 1: latents and noise, of each step its own.

With several streams each has activations of its own and takes STREAM beside them, and one picture more is held.

Activations are read from the compiled engines (openvino/compile.py) and grow with the tile's area. Attention
is fused, or its scores (a wide head's, on an eighth of the sides) fit where the largest tensors lie, up to about
1,250×1,250 pixels at Stable Diffusion's size. Larger tiles, which only --tile asks for, take more than is
predicted. The constants were measured on the demo model and at Stable Diffusion 2.1's size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.wiring import REFERENCE_SIZE, PartInfo, picture_size, sources_of
from passionsr_trt.engines.common.free_memory import free_memory
from passionsr_trt.runtime.core.chain import Arrays, Done

Shapes = Mapping[str, tuple[int, ...]]
BASE = 260e6  # Python, decoders of pictures, OpenVINO, its compiler's leavings
WEIGHTS = 1.1  # OpenVINO's own copies, in its layouts
STREAM = 250e6  # each stream after the first: 120 to 190 MB were measured, from 256² to 1024²
PICTURE = 60.0  # bytes a pixel: source and result in float32, the one being read, the one being written
UNSEEN = 36.0  # the same where no enlarged source is made


class Engine(Protocol):
    """One part, ready to run on float32 arrays by name."""

    def prepare(self, shapes: Shapes) -> None:
        """Whatever inputs of these shapes need once, so that it is not counted into a run's time."""

    def run(self, inputs: Arrays) -> np.ndarray: ...


class HostExecutor:
    """A job is done when `submit` returns. With several streams each has a thread that works on it then,
    and one more job waits, so that no stream does while a result is taken.

    Parts of a job are made ready together, as many at once as cores.

    engines: in the order in which they are made ready; with several streams each runs on as many threads at once.
    checks: what has to be done before anything runs, once.
    """

    ragged = False  # another shape is another model to compile and to keep

    def __init__(
        self, engines: Mapping[str, Engine], checks: Sequence[Callable[[], object]] = (), streams: int = 1
    ) -> None:
        self.engines, self.checks = dict(engines), checks
        self.depth = 1 if streams == 1 else streams + 1
        self._streams = ThreadPoolExecutor(streams) if streams > 1 else None

    def submit(self, parts: Sequence[PartInfo], inputs: Arrays, keep: Collection[str]) -> Done | Future[Done]:
        self.prepare(parts, inputs)
        if self._streams is None:
            return self._done(parts, inputs, keep)
        return self._streams.submit(self._done, parts, inputs, keep)

    def _done(self, parts: Sequence[PartInfo], inputs: Arrays, keep: Collection[str]) -> Done:
        tensors, seconds = dict(inputs), {}
        for part in parts:
            feed = part.feed(tensors)
            start = time.perf_counter()
            tensors[part.output.name] = self.engines[part.name].run(feed)
            seconds[part.name] = time.perf_counter() - start
        return Done({name: tensors[name] for name in keep}, seconds)

    def collect(self, ticket: Done | Future[Done]) -> Done:
        return ticket if isinstance(ticket, Done) else ticket.result()

    def prepare(self, parts: Sequence[PartInfo], inputs: Arrays) -> None:
        """Every part for the shapes that it will see."""
        shapes = shapes_of(parts, inputs)
        wanted = {part.name: {tensor.name: shapes[tensor.name] for tensor in part.inputs} for part in parts}
        work: list[Callable[[], object]] = [
            partial(self.engines[name].prepare, wanted[name]) for name in self.engines if name in wanted
        ]
        with ThreadPoolExecutor(min(len(work), os.cpu_count() or 1)) as pool:
            for done in [pool.submit(task) for task in (*work, *self.checks)]:
                done.result()
        self.checks = ()

    def close(self) -> None:
        if self._streams is not None:
            self._streams.shutdown(cancel_futures=True)
        self.engines.clear()


def shapes_of(parts: Sequence[PartInfo], inputs: Arrays) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a job, known from its inputs."""
    shapes = {name: array.shape for name, array in inputs.items()}
    size = picture_size((tensor for part in parts for tensor in part.inputs), shapes)
    batch = len(next(iter(inputs.values())))
    for part in parts:
        shapes[part.output.name] = part.output.at(size, batch)
    return shapes


@dataclass(frozen=True)
class HostMemory:
    """Bytes: of all engines' weights, of each part's activations at 512×512, which OpenVINO keeps apart; free:
    what there was for the whole process before anything was loaded. streams: pictures or tiles at once; they share
    the weights, and another picture waits. picture: for each of its pixels; a colour fix that is asked for, of a
    network that needs none, is not counted.
    """

    weights: int
    activations: dict[str, int]
    free: int
    streams: int = 1
    picture: float = PICTURE

    @classmethod
    def of(cls, bundle: EngineBundle, streams: int = 1) -> HostMemory:
        activations = {name: figures.activation_bytes for name, figures in bundle.coverage.items()}
        listed = (entry for part in bundle.parts for entry in bundle.listed(part).values())
        seen = "image" in sources_of(bundle.parts) or bundle.model.align != "none"
        tensors = {tensor.name: tensor for part in bundle.parts for tensor in (*part.inputs, part.output)}
        between = sum(4 * x.channels / x.stride**2 for x in tensors.values() if x.stride > 1)
        picture = (PICTURE if seen else UNSEEN) + between
        return cls(sum(entry["size"] for entry in listed), activations, free_memory(), streams, picture)

    def predict(self, picture: int, at_once: Mapping[str, int]) -> int:
        """Peak bytes from output pixels: the picture's, and what each part's engine gets at once."""
        pictures = 1 if self.streams == 1 else self.streams + 1
        total = BASE + WEIGHTS * self.weights + self.picture * picture * pictures + STREAM * (self.streams - 1)
        for name, activations in self.activations.items():
            total += self.streams * activations * at_once[name] / REFERENCE_SIZE**2
        return round(total)
