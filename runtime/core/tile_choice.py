"""Which tiles a picture is cut into: those that compute least, of what memory and engines allow.

Sides need not be round: four of 560 pixels cover 2048 at an overlap of 64, where four of 576 compute 64 twice. And
tiles need not be square: on a CPU convolutions at full resolution are slower by the pixel on rows of more than 512
pixels, whatever the height.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

from passionsr_trt.engines.bundle.wiring import PartInfo, Size, chain_multiple
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.core.chain import Limits
from passionsr_trt.runtime.core.tiling import Tiles

SIDES = (640, 512, 448, 384, 320, 256, 192, 128)  # of squares: tiles of at most their areas, less for less memory
LEAST, MOST = 0.6, 1.6  # a tile's sides over its square's
# rows of 576 and 1024 pixels against 512 at Stable Diffusion's size, OpenVINO on an AMD Zen 4: 1.15 to 1.24
# (measured in f3149c7)
WIDE, WIDE_COST = 512, 1.18


def tilings(size: Size, overlap: int, limits: Limits | None, parts: Sequence[PartInfo]) -> Iterator[Tiles]:
    """What a picture of `size` may be cut into, best first, each smaller than the one before.

    limits: engines that take some sizes only (GPU): every part has the same tiles, of the chain's multiples.
    UserError where tiles cannot overlap so far.
    """
    multiple = chain_multiple(parts)
    if limits is not None:
        low, high = limits
        if overlap > min(high) - multiple:
            raise UserError(
                f"--overlap {overlap}: too much for engines of {high[0]}×{high[1]} pixels at most",
                f"expected at most {min(high) - multiple}",
            )
        tile = least_work(size, overlap, multiple, low, high, high)
        yield Tiles({part.name: tile for part in parts}, overlap)
        return
    for side in SIDES:
        if overlap > side - multiple:
            break
        low, middle, high = ((round(factor * side),) * 2 for factor in (LEAST, 1, MOST))

        @cache
        def best(unit: int, wide_cost: float, low: Size = low, middle: Size = middle, high: Size = high) -> Size:
            return least_work(size, overlap, unit, low, middle, high, wide_cost)

        costs = {part.name: WIDE_COST if part.finest == 1 else 1.0 for part in parts}
        yield Tiles({part.name: best(part.multiple, costs[part.name]) for part in parts}, overlap)


def least_work(
    size: Size, overlap: int, unit: int, low: Size, middle: Size, high: Size, wide_cost: float = 1.0
) -> Size:
    """The tile with sides from low to high, of at most `middle`'s area, that covers `size` with the least work."""
    axes = zip(size, low, middle, high, strict=True)

    def work(tile: Size) -> tuple[float, int]:
        left = ((max(length - side, 0), side) for length, side in zip(size, tile, strict=True))
        tiles = math.prod(1 + math.ceil(length / max(side - overlap, 1)) for length, side in left)
        pixels = math.prod(tile)
        return tiles * pixels * (wide_cost if tile[1] > WIDE else 1.0), pixels

    heights, widths = (covering(*axis, overlap, unit) for axis in axes)
    return min((tile for tile in product(heights, widths) if math.prod(tile) <= math.prod(middle)), key=work)


def covering(length: int, low: int, middle: int, high: int, overlap: int, unit: int) -> set[int]:
    """For every number of tiles the least side that covers `length`, as far as it is within low and high.

    `middle` as well where all are larger.
    """
    low = max(low, overlap + unit)
    found = set()
    for tiles in range(1, max(length - overlap, unit) // (low - overlap) + 2):
        side = math.ceil((length + (tiles - 1) * overlap) / tiles / unit) * unit
        if side <= high and (side >= low or tiles == 1):
            found.add(side)
    return found if any(side <= middle for side in found) else {*found, middle}
