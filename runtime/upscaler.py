"""Upscaler: one picture in, one picture out. Bicubic → pad → chain (tiled where large) → crop → colours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from passionsr_trt.engines.bundle.errors import UsageError, UserError
from passionsr_trt.runtime.chain import Chain, Limits
from passionsr_trt.runtime.colour import align
from passionsr_trt.runtime.images import pad_to_multiple, to_array, to_image, upscale
from passionsr_trt.runtime.tile_choice import tilings
from passionsr_trt.runtime.tiling import UNIT, Size, Tiles, run_tiled
from PIL import Image

# above this many output pixels an image is tiled unless the user says otherwise: attention grows with their
# square, and at Stable Diffusion's size tiles are faster from here on
UNTILED_PIXELS = 896 * 896
LARGEST_OVERLAP = 448  # pixels, where tiles are chosen by themselves


@dataclass(frozen=True)
class Options:
    """align: colour fix. tile: side in output pixels, a multiple of 64; 0: never, None: by size and memory.

    memory: bytes that the whole process may take; None: any number. batch: tiles at once; None: as many as the
    engines were built for, 1 where they take any number.
    """

    align: str = "adain"
    tile: int | None = None
    overlap: int = 64
    seed: int = 0
    memory: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.tile and (self.tile % 64 or self.tile < 128):
            raise UsageError(f"--tile {self.tile}", "expected a multiple of 64, at least 128, or 0")
        largest = self.tile - 64 if self.tile else LARGEST_OVERLAP
        if not 0 <= self.overlap <= largest or self.overlap % UNIT:
            raise UsageError(f"--overlap {self.overlap}", f"expected a multiple of {UNIT}, 0 to {largest}")

    def tiles_for(self, size: Size, chain: Chain) -> Tiles | None:
        """Tiles for an image of `size` output pixels, None: untiled. UserError where no tiles fit into memory."""

        def need(tiles: Tiles | None) -> int:
            if chain.memory is None:
                return 0
            whole = math.prod(size)
            vae, unet = (
                (whole, whole) if tiles is None else (tiles.at_once(size, of) for of in (tiles.vae, tiles.unet))
            )
            return chain.memory.predict(whole, vae, unet)

        most = chain.batch or self.batch or 1
        for tiles in self._choices(size, chain.limits):
            for batch in range(min(self.batch or most, most), 0, -1):
                tiles = None if tiles is None else replace(tiles, batch=batch)
                if self.memory is None or need(tiles) <= self.memory:
                    return tiles
        raise UserError(
            f"an image of {size[0]}×{size[1]} pixels takes {need(tiles) / 2**30:.2f} GiB at least",
            f"{(self.memory or 0) / 2**30:.2f} GiB may be taken",
            "smaller engines, pictures, --tile or --overlap need less; --memory lifts the limit",
        )

    def _choices(self, size: Size, limits: Limits | None) -> Iterator[Tiles | None]:
        """What may be tried, best first."""
        if self.tile is not None:
            square = (self.tile, self.tile)
            cut = bool(self.tile) and max(size) > self.tile
            low, high = limits or (size, size)
            given = (min(self.tile, length) for length in size) if cut else size
            if limits and not all(a <= side <= b for a, side, b in zip(low, given, high, strict=True)):
                raise UserError(
                    f"--tile {self.tile}: the engines take {low[0]}×{low[1]} to {high[0]}×{high[1]} pixels",
                    "expected tiles of that",
                    "without --tile they are",
                )
            yield Tiles(square, square, self.overlap) if cut else None
            return
        if limits is None:
            whole = math.prod(size) <= UNTILED_PIXELS
        else:
            whole = all(length <= most for length, most in zip(size, limits[1], strict=True))
        if whole:
            yield None
        if limits is None or not whole:
            yield from tilings(size, self.overlap, limits)


@dataclass(frozen=True)
class SRResult:
    """The picture, the bicubic enlargement it started from, seconds per part, tiles (None: untiled)."""

    image: Image.Image
    bicubic: Image.Image
    seconds: dict[str, float]
    tiles: Tiles | None


def super_resolve(chain: Chain, image: Image.Image, options: Options) -> SRResult:
    """8-bit RGB of any size → 8-bit RGB, `upscale` times as large."""
    bicubic = upscale(image, chain.model.upscale)
    source = to_array(bicubic)
    least = (0, 0) if chain.limits is None else chain.limits[0]
    padded = pad_to_multiple(source, chain.model.multiple, least)[None]
    tiles = options.tiles_for(padded.shape[2:], chain)
    result = chain.run(padded, options.seed) if tiles is None else run_tiled(chain, padded, tiles, options.seed)
    result = result[0, :, : source.shape[1], : source.shape[2]]
    np.clip(result, -1.0, 1.0, out=result)
    picture = to_image(align(result, source, options.align))
    return SRResult(picture, bicubic, dict(chain.seconds), tiles)
