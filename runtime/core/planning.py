"""Is a picture tiled, and how? From its size, the chain's limits and the memory that is free.

Tiles are those that compute least, of what memory and engines allow. Sides need not be round: four of 560 pixels
cover 2048 at an overlap of 64, where four of 576 compute 64 twice. And tiles need not be square: on a CPU
convolutions at full resolution are slower by the pixel on rows of more than 512 pixels, whatever the height.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from passionsr_trt.engines.bundle.wiring import PartInfo, Size, chain_grid, chain_multiple
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.free_memory import in_words
from passionsr_trt.runtime.core.chain import Chain, Limits
from passionsr_trt.runtime.pictures.images import WHITE, Colour

Area = tuple[slice, slice]  # rows and columns, in output pixels
# above this many output pixels an image is tiled unless the user says otherwise: attention grows with their
# square, and at Stable Diffusion's size tiles are faster from here on
UNTILED_PIXELS = 896 * 896
LARGEST_OVERLAP = 448  # pixels, where tiles are chosen by themselves
SIDES = (640, 512, 448, 384, 320, 256, 192, 128)  # of squares: tiles of at most their areas, less for less memory
LEAST, MOST = 0.6, 1.6  # a tile's sides over its square's
# rows of 576 and 1024 pixels against 512 at Stable Diffusion's size, OpenVINO on an AMD Zen 4: 1.15 to 1.24
# (measured in f3149c7)
WIDE, WIDE_COST = 512, 1.18


@dataclass(frozen=True)
class Options:
    """align: colour fix, None: the model's own. tile: side in output pixels; 0: never, None: by size and memory.
    overlap: of tiles, in output pixels; None: the model's, or the next below that its tensors can be cut at; no
    more than a quarter of what tiles can be at most.

    memory: bytes that may be taken in all; None: what is free. batch: tiles at once; None: as many as the engines
    were built for, 1 where they take any number. background: what JPEG shows instead of transparency.
    outscale: how many times larger a result is than its picture, by a last resize; None: as the model made it.
    """

    align: str | None = None
    tile: int | None = None
    overlap: int | None = None
    seed: int = 0
    memory: int | None = None
    batch: int | None = None
    background: Colour = WHITE
    outscale: float | None = None

    def result_size(self, picture: Size, upscale: int) -> Size:
        """Of the result of a picture of this size, enlarged `upscale` times by the model."""
        height, width = (round(side * (self.outscale or upscale)) for side in picture)
        return height, width


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
        """`tiles of 464×728 pixels (unet 576×576)`, width first."""
        (_first, side), *others = self.sides.items()
        different = ", ".join(f"{name} {_by(other)}" for name, other in others if other != side)
        at_once = f", up to {self.batch} at once" if self.batch > 1 else ""
        return f"tiles of {_by(side)} pixels" + (f" ({different})" if different else "") + at_once


def _by(size: Size) -> str:
    return f"{size[1]}×{size[0]}"


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


def check_options(options: Options, chain: Chain) -> None:
    """UsageError where a chain cannot be run so, whatever the picture."""
    multiple = chain.multiple
    unit = chain_grid(chain.parts)
    if options.tile and (options.tile % multiple or options.tile < 2 * multiple):
        raise UsageError(
            f"--tile {options.tile}", f"expected a multiple of {multiple}, at least {2 * multiple}, or 0"
        )
    largest = options.tile - multiple if options.tile else LARGEST_OVERLAP
    overlap = overlap_of(chain, options)
    if not 0 <= overlap <= largest or overlap % unit:
        raise UsageError(f"--overlap {overlap}", f"expected a multiple of {unit}, 0 to {largest}")
    if chain.batch is not None and (options.batch or 1) > chain.batch:
        raise UsageError(
            f"--batch {options.batch}: the engines take {chain.batch} at once",
            "expected no more",
            "export again without --size; for GPUs build with --batch as well",
        )


def overlap_of(chain: Chain, options: Options) -> int:
    """Output pixels by which tiles overlap."""
    if options.overlap is not None:
        return options.overlap
    grid = chain_grid(chain.parts)
    sides = [options.tile] if options.tile else [] if chain.limits is None else chain.limits[1]
    return min([chain.model.overlap, *(max(side // 4, grid) for side in sides)]) // grid * grid


def plan_tiles(size: Size, chain: Chain, options: Options) -> Tiles | None:
    """Tiles for an image of `size` output pixels, None: untiled. UserError where no tiles fit into memory."""
    memory = chain.memory
    allowed = options.memory if options.memory is not None or memory is None else memory.free
    most = chain.batch or options.batch or 1
    needed = 0
    for tiles in _choices(size, chain, options):
        for batch in range(min(options.batch or most, most), 0, -1):
            tiles = None if tiles is None else replace(tiles, batch=batch, ragged=chain.executor.ragged)
            needed = need(size, chain, tiles)
            if allowed is None or needed <= allowed:
                return tiles
    raise UserError(
        f"an image of {_by(size)} pixels takes {in_words(needed)} at least",
        f"{in_words(allowed or 0)} may be taken",
        "smaller engines, pictures, --tile or --overlap need less; --memory lifts the limit",
    )


def need(size: Size, chain: Chain, tiles: Tiles | None) -> int:
    """Bytes that a picture takes at its peak, 0 where nobody knows."""
    if chain.memory is None:
        return 0
    whole = math.prod(size)
    at_once = {part.name: whole if tiles is None else tiles.at_once(size, part.name) for part in chain.parts}
    return chain.memory.predict(whole, at_once)


def _choices(size: Size, chain: Chain, options: Options) -> Iterator[Tiles | None]:
    """What may be tried, best first."""
    limits = chain.limits
    if options.tile is not None:
        cut = bool(options.tile) and max(size) > options.tile
        low, high = limits or (size, size)
        given = (min(options.tile, length) for length in size) if cut else size
        if limits and not all(a <= side <= b for a, side, b in zip(low, given, high, strict=True)):
            raise UserError(
                f"--tile {options.tile}: the engines take {_by(low)} to {_by(high)} pixels",
                "expected tiles of that",
                "without --tile they are",
            )
        square = (options.tile, options.tile)
        yield Tiles({part.name: square for part in chain.parts}, overlap_of(chain, options)) if cut else None
        return
    if limits is None:
        whole = math.prod(size) <= UNTILED_PIXELS
    else:
        whole = all(length <= most for length, most in zip(size, limits[1], strict=True))
    if whole:
        yield None
    if limits is None or not whole:
        yield from tilings(size, overlap_of(chain, options), limits, chain.parts)


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
                f"--overlap {overlap}: too much for engines of {_by(high)} pixels at most",
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
