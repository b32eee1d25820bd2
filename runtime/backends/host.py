"""Parts on host arrays, one after another: what OpenVINO and ONNX Runtime have in common."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
from passionsr_trt.engines.bundle.wiring import PartInfo, picture_size
from passionsr_trt.runtime.core.chain import Arrays, Done

Shapes = Mapping[str, tuple[int, ...]]


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
