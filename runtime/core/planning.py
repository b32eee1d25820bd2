"""Is a picture tiled, and how? One function, from its size, the chain's limits and the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from passionsr_trt.engines.bundle.wiring import Size, chain_grid
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.tile_choice import tilings
from passionsr_trt.runtime.core.tiling import Tiles
from passionsr_trt.runtime.pictures.written import WHITE, Colour

# above this many output pixels an image is tiled unless the user says otherwise: attention grows with their
# square, and at Stable Diffusion's size tiles are faster from here on
UNTILED_PIXELS = 896 * 896
LARGEST_OVERLAP = 448  # pixels, where tiles are chosen by themselves


@dataclass(frozen=True)
class Options:
    """align: colour fix, None: the model's own. tile: side in output pixels; 0: never, None: by size and memory.
    overlap: of tiles, in output pixels; None: the model's, or the next below that its tensors can be cut at; no
    more than a quarter of what tiles can be at most.

    memory: bytes that may be taken in all; None: what is free. batch: tiles at once; None: as many as the engines
    were built for, 1 where they take any number. background: what JPEG shows instead of transparency.
    """

    align: str | None = None
    tile: int | None = None
    overlap: int | None = None
    seed: int = 0
    memory: int | None = None
    batch: int | None = None
    background: Colour = WHITE


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
        f"an image of {size[0]}×{size[1]} pixels takes {needed / 2**30:.2f} GiB at least",
        f"{(allowed or 0) / 2**30:.2f} GiB may be taken",
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
                f"--tile {options.tile}: the engines take {low[0]}×{low[1]} to {high[0]}×{high[1]} pixels",
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
