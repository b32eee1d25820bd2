"""Large pictures in overlapping tiles, part by part: each part's tiles are blended before the next part sees them.

So the last part's tiles agree where they meet. Group norms see a tile's statistics, not the picture's: tiles trade
fidelity to the untiled result for memory. Blending is done on the host, on a GPU too: it needs arithmetic that no
engine has, and the tensors between parts are small beside the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from passionsr_trt.engines.bundle.wiring import PartInfo, Size, TensorInfo, picture_size
from passionsr_trt.runtime.core.chain import Arrays, Chain, Done

Area = tuple[slice, slice]  # rows and columns, in output pixels
Watch = Callable[[str, int, int], None]  # part, how many of its tiles are done, of how many; may raise to give up


@dataclass(frozen=True)
class Tiles:
    """Height and width of every part's tiles by its name, and how far they overlap, in output pixels.

    Sides are multiples of the part's own, the overlap of every tensor's stride. batch: an engine is given so many
    at once, at most; ragged: what is left over may be a smaller batch.
    """

    sides: Mapping[str, Size]
    overlap: int
    batch: int = 1
    ragged: bool = False

    def counts(self, size: Size, part: str) -> list[int]:
        """How many tiles of an image of `size` a part gets at once, one batch after another."""
        count = len(areas(size, self.sides[part], self.overlap))
        batch = min(count, self.batch) if self.ragged else even(count, self.batch)
        return [min(batch, count - start) for start in range(0, count, batch)]

    def at_once(self, size: Size, part: str) -> int:
        """Pixels of a part's largest batch of tiles of an image of `size`."""
        return self.counts(size, part)[0] * math.prod(map(min, size, self.sides[part]))

    def __str__(self) -> str:
        """`tiles of 728×464 pixels (unet 576×576)`."""
        (_first, side), *others = self.sides.items()
        different = ", ".join(f"{name} {_by(other)}" for name, other in others if other != side)
        at_once = f", up to {self.batch} at once" if self.batch > 1 else ""
        return f"tiles of {_by(side)} pixels" + (f" ({different})" if different else "") + at_once


def _by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles that cover `length`; the last one is moved back to end at the edge."""
    if length <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, length - tile, step), length - tile]


def even(count: int, most: int) -> int:
    """The largest batch, at most `most`, that `count` tiles part into without a rest.

    A rest would be a shape of its own: another engine to compile and to keep in memory.
    """
    return max(size for size in range(1, min(count, most) + 1) if count % size == 0)


def areas(size: Size, tile: Size, overlap: int) -> list[Area]:
    """Tiles that cover `size`, row by row."""
    return [
        (slice(top, min(top + tile[0], size[0])), slice(left, min(left + tile[1], size[1])))
        for top in tile_starts(size[0], tile[0], overlap)
        for left in tile_starts(size[1], tile[1], overlap)
    ]


def window(tile_height: int, tile_width: int, overlap: int) -> np.ndarray:
    """Weights [h, w]: 1 inside, a raised cosine over `overlap` pixels at each edge, next to 0 at its end.

    A window that ended above 0 would leave a step where a tile ends.
    """

    def profile(size: int) -> np.ndarray:
        distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
        return (0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / max(overlap, 1), 1.0))).astype(np.float32)

    return profile(tile_height)[:, None] * profile(tile_width)[None, :]


def unwatched(_part: str, _done: int, _count: int) -> None:
    """For those who wait for the end."""


def run_tiled(chain: Chain, sources: Arrays, tiles: Tiles, watch: Watch = unwatched) -> Done:
    """The chain on one picture, sources [1, C, h, w]; gives every part's blended output."""
    tensors, seconds = dict(sources), {}
    for part in chain.parts:
        tensors[part.output.name], seconds[part.name] = run_part_tiled(chain, part, tensors, tiles, watch)
    return Done(tensors, seconds)


def run_watched(chain: Chain, sources: Arrays, watch: Watch) -> Done:
    """The chain on one untiled picture, part by part, so that it can be given up between two; what `run` gives."""
    tensors, seconds = dict(sources), {}
    for part in chain.parts:
        watch(part.name, 0, 1)
        done = chain.run_part(part, part.feed(tensors))
        tensors.update(done.tensors)
        seconds.update(done.seconds)
        watch(part.name, 1, 1)
    return Done(tensors, seconds)


def run_part_tiled(
    chain: Chain, part: PartInfo, tensors: Arrays, tiles: Tiles, watch: Watch = unwatched
) -> tuple[np.ndarray, float]:
    """One part's output for the whole picture, and its seconds in all."""
    size = picture_size(part.inputs, {name: x.shape for name, x in tensors.items()})
    places = iter(areas(size, tiles.sides[part.name], tiles.overlap))
    batches = [list(islice(places, count)) for count in tiles.counts(size, part.name)]
    jobs = ({tensor.name: cut(tensors[tensor.name], tensor, batch) for tensor in part.inputs} for batch in batches)
    blended = Blend(part.output, size, tiles.overlap)
    seconds, count, finished = 0.0, sum(map(len, batches)), 0
    watch(part.name, 0, count)
    for batch, done in zip(batches, chain.stream([part], jobs), strict=True):
        seconds += done.seconds[part.name]
        for area, result in zip(batch, done.tensors[part.output.name], strict=True):
            blended.add(area, result)
        finished += len(batch)
        watch(part.name, finished, count)
    return blended.result(), seconds


def cut(x: np.ndarray, tensor: TensorInfo, places: list[Area]) -> np.ndarray:
    """Tiles of x [1, C, H, W] as a batch [B, C, h, w]; a row is repeated."""
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
