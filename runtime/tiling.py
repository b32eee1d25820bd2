"""Tiles of the image through the whole chain, blended where they overlap.

Group norms see a tile's statistics, not the image's: tiles trade fidelity to the untiled result for memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles that cover `length`; the last one is moved back to end at the edge."""
    if length <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, length - tile, step), length - tile]


def window(tile_height: int, tile_width: int, overlap: int) -> np.ndarray:
    """Weights [h, w]: 1 inside, a raised cosine over `overlap` pixels at each edge, next to 0 at its end.

    A window that ended above 0 would leave a step where a tile ends.
    """

    def profile(size: int) -> np.ndarray:
        distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
        return (0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / max(overlap, 1), 1.0))).astype(np.float32)

    return profile(tile_height)[:, None] * profile(tile_width)[None, :]


RunMany = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]


def run_tiled(run_many: RunMany, image: np.ndarray, tile: int, overlap: int) -> np.ndarray:
    """`run_many` on overlapping tiles of `image` [1,3,H,W] (sides multiples of 64, as is `tile`), blended."""
    height, width = image.shape[2:]
    if not tile or (height <= tile and width <= tile):
        return next(run_many([image]))
    total = np.zeros(image.shape, np.float32)
    weights = np.zeros((height, width), np.float32)
    areas = [
        (slice(top, top + tile), slice(left, left + tile))
        for top in tile_starts(height, tile, overlap)
        for left in tile_starts(width, tile, overlap)
    ]
    pieces = (image[:, :, rows, columns] for rows, columns in areas)
    for (rows, columns), result in zip(areas, run_many(pieces), strict=True):
        weight = window(result.shape[2], result.shape[3], overlap)
        total[:, :, rows, columns] += result * weight
        weights[rows, columns] += weight
    return total / weights
