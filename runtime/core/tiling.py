"""A picture's way through a chain, in overlapping tiles or whole.

A tiled picture goes part by part: each part's tiles are blended before the next part sees them, so that the last
part's tiles agree where they meet. Group norms see a tile's statistics, not the picture's: tiles trade fidelity to
the untiled result for memory. Blending is done on the host, on a GPU too: it needs arithmetic that no engine has,
and the tensors between parts are small beside the pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
from passionsr_trt.engines.bundle.wiring import PartInfo, Size, TensorInfo, picture_size
from passionsr_trt.runtime.core.chain import Arrays, Chain, Done
from passionsr_trt.runtime.core.ordered import attempt, ordered
from passionsr_trt.runtime.core.planning import Area, Tiles, areas, tile_starts

T = TypeVar("T")
Watch = Callable[[str, int, int], None]  # part, how many of its tiles are done, of how many; may raise to give up
WHOLE: Area = (slice(None), slice(None))  # an untiled picture's one tile


@dataclass
class PictureRun(Generic[T]):
    """One picture on its way through a chain. given: what the caller knows it by; tensors: its sources
    [1, C, h, w], then every output so far; error: what went wrong with it.

    An untiled picture is one tile, of all parts at once. Tiled or watched it goes part by part.
    """

    given: T
    chain: Chain
    tensors: dict[str, np.ndarray]
    tiles: Tiles | None = None
    watch: Watch | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    def batches(self) -> Iterator[Batch]:
        """What an executor gets, one after another, to the final one; after a failure that is an empty one."""
        left, final = self._batches(), False
        while not final:
            found = attempt(partial(next, left)) if self.error is None else self.error
            if isinstance(found, Exception):
                self.error, found = found, Batch(self, final=True)
            yield found
            final = found.final

    def _batches(self) -> Iterator[Batch]:
        parts = self.chain.parts
        at_once = self.tiles is None and self.watch is None
        for together in [parts] if at_once else [(part,) for part in parts]:
            tensors = [tensor for part in together for tensor in part.inputs if tensor.name in self.tensors]
            size = picture_size(tensors, {name: x.shape for name, x in self.tensors.items()})
            name, output, tiles = together[-1].name, together[-1].output, self.tiles
            blend = None if tiles is None else Blend(output, size, tiles.overlap)
            places = iter([WHOLE] if tiles is None else areas(size, tiles.sides[name], tiles.overlap))
            counts = [1] if tiles is None else tiles.counts(size, name)
            done, count = 0, sum(counts)
            self._say(name, done, count)
            for batch in (list(islice(places, number)) for number in counts):
                done += len(batch)
                feed = {tensor.name: cut(self.tensors[tensor.name], tensor, batch) for tensor in tensors}
                final = done == count and together[-1] is parts[-1]
                yield Batch(self, final, together, feed, batch, blend, done, count)

    def take(self, batch: Batch, result: Done) -> None:
        """What an executor gave for a batch; it is dropped where another of the picture failed."""
        if self.error is not None:
            return
        part = batch.parts[-1]
        tiles = result.tensors[part.output.name]
        if batch.blend is None:
            self.tensors[part.output.name] = tiles
        else:
            for area, tile in zip(batch.areas, tiles, strict=True):
                batch.blend.add(area, tile)
            if batch.last:
                self.tensors[part.output.name] = batch.blend.result()
        for name, seconds in result.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._say(part.name, batch.done, batch.count)

    def _say(self, part: str, done: int, count: int) -> None:
        if self.watch is not None:
            self.watch(part, done, count)


@dataclass(frozen=True)
class Batch:
    """Some tiles of a picture for some parts. final: the last ones for the last part; done: of the `count` that
    there are, with these. blend: what they are added to, None where the one tile is the picture.
    """

    run: PictureRun[Any]
    final: bool
    parts: Sequence[PartInfo] = ()
    feed: Arrays = field(default_factory=dict)
    areas: Sequence[Area] = ()
    blend: Blend | None = None
    done: int = 0
    count: int = 0

    @property
    def last(self) -> bool:
        """For these parts; what comes next may need what all of them give."""
        return self.done == self.count


def run_pictures(chain: Chain, runs: Iterable[PictureRun[T]]) -> Generator[PictureRun[T]]:
    """Each run when it is finished or has failed, in order; one is asked for while the chain works on another."""
    executor = chain.executor

    def submit(batch: Batch) -> tuple[Batch, Any]:
        if batch.run.error is not None:
            return batch, batch.run.error
        keep = (batch.parts[-1].output.name,)
        return batch, attempt(partial(executor.submit, batch.parts, batch.feed, keep))

    def collect(job: tuple[Batch, Any]) -> PictureRun[T] | None:
        batch, ticket = job
        failure = ticket
        if not isinstance(ticket, Exception):
            failure = attempt(lambda: batch.run.take(batch, executor.collect(ticket)))
        batch.run.error = batch.run.error or failure
        return batch.run if batch.final else None

    def due(waiting: deque[tuple[Batch, Any]]) -> bool:
        newest, _ = waiting[-1]
        return newest.last and not newest.final

    batches = (batch for run in runs for batch in run.batches())
    with closing(ordered(batches, submit, collect, executor.depth, due)) as ended:
        yield from filter(None, ended)


def run_picture(chain: Chain, sources: Arrays, tiles: Tiles | None = None, watch: Watch | None = None) -> Done:
    """The chain on one picture, sources [1, C, h, w]: its tensors and the seconds of each part."""
    (run,) = run_pictures(chain, [PictureRun(None, chain, dict(sources), tiles, watch)])
    if run.error is not None:
        raise run.error
    return Done(run.tensors, run.seconds)


def window(tile_height: int, tile_width: int, overlap: int) -> np.ndarray:
    """Weights [h, w]: 1 inside, a raised cosine over `overlap` pixels at each edge, next to 0 at its end.

    A window that ended above 0 would leave a step where a tile ends.
    """

    def profile(size: int) -> np.ndarray:
        distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
        return (0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / max(overlap, 1), 1.0))).astype(np.float32)

    return profile(tile_height)[:, None] * profile(tile_width)[None, :]


def cut(x: np.ndarray, tensor: TensorInfo, places: list[Area]) -> np.ndarray:
    """Tiles of x [1, C, H, W] as a batch [B, C, h, w]; a row is repeated."""
    if places == [WHOLE]:
        return x
    if not tensor.stride:
        return np.repeat(x, len(places), axis=0)
    return np.concatenate([x[(slice(None), slice(None), *scaled(area, tensor.stride))] for area in places])


def scaled(area: Area, stride: int) -> Area:
    """An area in output pixels as one of a tensor's positions."""
    rows, columns = (slice(side.start // stride, side.stop // stride) for side in area)
    return rows, columns


class Blend:
    """The weighted mean of overlapping tiles of one tensor."""

    def __init__(self, tensor: TensorInfo, size: Size, overlap: int) -> None:
        self.stride, self.overlap = tensor.stride, overlap // tensor.stride
        self.total = np.zeros(tensor.at(size), np.float32)
        self.weights = np.zeros(self.total.shape[2:], np.float32)

    def add(self, area: Area, tile: np.ndarray) -> None:
        """One tile [C, h, w]."""
        rows, columns = scaled(area, self.stride)
        weight = window(tile.shape[1], tile.shape[2], self.overlap)
        self.total[0, :, rows, columns] += tile * weight
        self.weights[rows, columns] += weight

    def result(self) -> np.ndarray:
        """[1, C, H, W]."""
        self.total /= self.weights
        return self.total


def seam_energy(picture: np.ndarray, untiled: np.ndarray, tile: Size, overlap: int) -> float:
    """Gradient energy of `picture` [3,H,W] across the tiles' borders over that of `untiled`; 1: no seam."""
    lines = []
    for axis, side in enumerate(tile, start=1):
        starts = tile_starts(picture.shape[axis], side, overlap)
        lines += [(axis, line) for line in {*starts[1:], *(start + side for start in starts[:-1])}]

    def energy(values: np.ndarray) -> float:
        steps = [np.take(values, line, axis) - np.take(values, line - 1, axis) for axis, line in lines]
        return float(np.mean([np.mean(np.square(step, dtype=np.float64)) for step in steps]))

    return energy(picture) / energy(untiled)
