"""Upscaler: one picture in, one picture out. Bicubic → pad → chain (tiled where large) → crop → colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from passionsr_trt.engines.errors import UsageError, UserError
from passionsr_trt.runtime.chain import Chain, Limits
from passionsr_trt.runtime.colour import align
from passionsr_trt.runtime.images import pad_to_multiple, to_array, to_image, upscale
from passionsr_trt.runtime.tiling import UNIT, choose_tile, run_tiled
from PIL import Image

# above this many output pixels an image is tiled unless the user says otherwise: attention grows with their
# square, and at Stable Diffusion's size tiles are faster from here on
UNTILED_PIXELS = 896 * 896
AUTO_SIDES = range(512, 641, 64)
SMALL_SIDES = range(448, 127, -64)  # for little memory: group norms see less of the picture


@dataclass(frozen=True)
class Options:
    """align: colour fix. tile: side in output pixels, a multiple of 64; 0: never, None: by size and memory.

    memory: bytes that the whole process may take; None: any number.
    """

    align: str = "adain"
    tile: int | None = None
    overlap: int = 64
    seed: int = 0
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.tile and (self.tile % 64 or self.tile < 128):
            raise UsageError(f"--tile {self.tile}", "expected a multiple of 64, at least 128, or 0")
        side = self.tile or AUTO_SIDES[0]
        if not 0 <= self.overlap <= side - 64 or self.overlap % UNIT:
            raise UsageError(f"--overlap {self.overlap}", f"expected a multiple of {UNIT}, 0 to {side - 64}")

    def tile_for(self, height: int, width: int, chain: Chain) -> int:
        """The tile's side for an image of height × width pixels; 0: untiled. UserError where nothing will do."""

        def need(side: int) -> int:
            tile = (min(side or height, height), min(side or width, width))
            return 0 if chain.memory is None else chain.memory.predict(tile, (height, width))

        choices = self._choices(height, width, chain.limits)
        for sides in choices:
            if fitting := [side for side in sides if self.memory is None or need(side) <= self.memory]:
                return choose_tile(height, width, fitting, self.overlap)
        least = min(need(side) for sides in choices for side in sides) / 2**30
        raise UserError(
            f"an image of {height}×{width} pixels takes {least:.1f} GiB at least",
            f"{(self.memory or 0) / 2**30:.1f} GiB may be taken",
            "smaller engines or pictures need less; --memory lifts the limit",
        )

    def _choices(self, height: int, width: int, limits: Limits | None) -> list[Sequence[int]]:
        """Sides to choose from, best first: what computes least of those that fit into memory is taken."""
        if self.tile is not None:
            return [[self.tile]]
        if limits is None:
            untiled = [[0]] if height * width <= UNTILED_PIXELS else []
            return [*untiled, AUTO_SIDES, *([side] for side in SMALL_SIDES if self.overlap <= side - 64)]
        (low_height, low_width), (high_height, high_width) = limits
        if height <= high_height and width <= high_width:
            return [[0]]
        sides = range(max(low_height, low_width), min(high_height, high_width) + 1, 64)
        if not sides:
            raise UserError(
                f"an image of {height}×{width} pixels needs square tiles",
                f"the engines take {low_height}×{low_width} to {high_height}×{high_width}",
                "build with equal sides, such as --size 512x512",
            )
        return [sides]


@dataclass(frozen=True)
class SRResult:
    """The picture, the bicubic enlargement it started from, and seconds per part."""

    image: Image.Image
    bicubic: Image.Image
    seconds: dict[str, float]
    tile: int


def super_resolve(chain: Chain, image: Image.Image, options: Options) -> SRResult:
    """8-bit RGB of any size → 8-bit RGB, `upscale` times as large."""
    bicubic = upscale(image, chain.model.upscale)
    source = to_array(bicubic)
    least = (0, 0) if chain.limits is None else chain.limits[0]
    padded = pad_to_multiple(source, chain.model.multiple, least)[None]
    tile = options.tile_for(padded.shape[2], padded.shape[3], chain)
    result = run_tiled(chain, padded, tile, options.overlap, options.seed)
    result = result[0, :, : source.shape[1], : source.shape[2]]
    np.clip(result, -1.0, 1.0, out=result)
    picture = to_image(align(result, source, options.align))
    return SRResult(picture, bicubic, dict(chain.seconds), tile)
