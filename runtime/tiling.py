"""Large images in overlapping tiles, part by part: encoder tiles → one latent → UNet tiles → one latent → decoder.

Every part's tiles are blended before the next part sees them, so that the decoder's tiles agree where they meet.
Group norms see a tile's statistics, not the image's: tiles trade fidelity to the untiled result for memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from passionsr_trt.engines.bundle.bundles import PART_NAMES
from passionsr_trt.runtime.chain import Chain, sample_posterior

UNIT = 8  # pixels a latent position stands for: tiles start and end on whole ones
Size = tuple[int, int]  # height, width
RunMany = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Tiles:
    """Height and width of the VAE's tiles and of the UNet's, and how far they overlap, in output pixels.

    All are multiples of 8, the UNet's of 64. batch: an engine is given so many at once, at most.
    """

    vae: Size
    unet: Size
    overlap: int
    batch: int = 1

    def at_once(self, size: Size, tile: Size) -> int:
        """Pixels of a batch of such tiles of an image of `size`."""
        counts = (len(tile_starts(length, side, self.overlap)) for length, side in zip(size, tile, strict=True))
        return even(math.prod(counts), self.batch) * math.prod(map(min, size, tile))

    def __str__(self) -> str:
        """`tiles of 728×464 pixels (UNet 576×576)`."""
        vae, unet = (f"{height}×{width}" for height, width in (self.vae, self.unet))
        at_once = f", up to {self.batch} at once" if self.batch > 1 else ""
        return f"tiles of {vae} pixels" + (f" (UNet {unet})" if unet != vae else "") + at_once


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


def window(tile_height: int, tile_width: int, overlap: int) -> np.ndarray:
    """Weights [h, w]: 1 inside, a raised cosine over `overlap` pixels at each edge, next to 0 at its end.

    A window that ended above 0 would leave a step where a tile ends.
    """

    def profile(size: int) -> np.ndarray:
        distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
        return (0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / max(overlap, 1), 1.0))).astype(np.float32)

    return profile(tile_height)[:, None] * profile(tile_width)[None, :]


def run_tiled(chain: Chain, image: np.ndarray, tiles: Tiles, seed: int = 0) -> np.ndarray:
    """The chain on `image` [1,3,H,W], sides multiples of 64."""
    chain.seconds.clear()
    encode, denoise, decode = (partial(chain.run_part, name) for name in PART_NAMES)
    blend = partial(map_tiles, overlap=tiles.overlap // UNIT, batch=tiles.batch)
    vae, unet = ((height // UNIT, width // UNIT) for height, width in (tiles.vae, tiles.unet))
    latent = sample_posterior(blend(encode, image, vae, unit=UNIT), chain.model, seed)
    return blend(decode, blend(denoise, latent, unet), vae)


def map_tiles(run: RunMany, x: np.ndarray, tile: Size, overlap: int, unit: int = 1, batch: int = 1) -> np.ndarray:
    """`run` on tiles of x [1,C,H,W], blended at the scale of what it gives. tile, overlap: units of x's pixels.

    It is given up to `batch` tiles at once, [B,C,h,w], in batches of one size.
    """
    height, width = x.shape[2] // unit, x.shape[3] // unit
    areas = [
        (slice(top, min(top + tile[0], height)), slice(left, min(left + tile[1], width)))
        for top in tile_starts(height, tile[0], overlap)
        for left in tile_starts(width, tile[1], overlap)
    ]

    def piece(rows: slice, columns: slice) -> np.ndarray:
        return x[:, :, rows.start * unit : rows.stop * unit, columns.start * unit : columns.stop * unit]

    size = even(len(areas), batch)
    starts = range(0, len(areas), size)
    batches = (np.concatenate([piece(*area) for area in areas[start : start + size]]) for start in starts)
    results = (result[index : index + 1] for result in run(batches) for index in range(len(result)))
    total = weights = np.zeros(0, np.float32)
    for (rows, columns), result in zip(areas, results, strict=True):
        scale = result.shape[2] // (rows.stop - rows.start)
        if not total.size:
            total = np.zeros((1, result.shape[1], height * scale, width * scale), np.float32)
            weights = np.zeros(total.shape[2:], np.float32)
        weight = window(result.shape[2], result.shape[3], overlap * scale)
        down = slice(rows.start * scale, rows.stop * scale)
        along = slice(columns.start * scale, columns.stop * scale)
        total[:, :, down, along] += result * weight
        weights[down, along] += weight
    total /= weights
    return total


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
