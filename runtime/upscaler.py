"""Upscaler: one picture in, one picture out. Bicubic → pad → chain (tiled where large) → crop → colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from passionsr_trt.engines.errors import UsageError
from passionsr_trt.runtime.chain import Chain
from passionsr_trt.runtime.colour import align
from passionsr_trt.runtime.images import pad_to_multiple, to_array, to_image, upscale
from passionsr_trt.runtime.tiling import run_tiled
from PIL import Image

# above this many output pixels an image is tiled unless the user says otherwise
UNTILED_PIXELS = 1536 * 1536
AUTO_TILE = 1024


@dataclass(frozen=True)
class Options:
    """align: colour fix. tile: side in output pixels, a multiple of 64; 0: never, None: by size."""

    align: str = "adain"
    tile: int | None = None
    overlap: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tile and (self.tile % 64 or self.tile < 128):
            raise UsageError(f"--tile {self.tile}", "expected a multiple of 64, at least 128, or 0")
        side = self.tile or AUTO_TILE
        if not 0 <= self.overlap < side:
            raise UsageError(f"--overlap {self.overlap}", f"expected 0 to {side - 1}")

    def tile_for(self, pixels: int) -> int:
        if self.tile is not None:
            return self.tile
        return AUTO_TILE if pixels > UNTILED_PIXELS else 0


@dataclass(frozen=True)
class SRResult:
    """The picture, the bicubic enlargement it started from, and seconds per part (of the last tile)."""

    image: Image.Image
    bicubic: Image.Image
    seconds: dict[str, float]
    tile: int


def super_resolve(chain: Chain, image: Image.Image, options: Options) -> SRResult:
    """8-bit RGB of any size → 8-bit RGB, `upscale` times as large."""
    bicubic = upscale(image, chain.model.upscale)
    source = to_array(bicubic)
    padded = pad_to_multiple(source, chain.model.multiple)[None]
    tile = options.tile_for(padded.shape[2] * padded.shape[3])

    def run_many(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return chain.run_many(pieces, options.seed)

    result = run_tiled(run_many, padded, tile, options.overlap)[0, :, : source.shape[1], : source.shape[2]]
    picture = to_image(align(np.clip(result, -1.0, 1.0), source, options.align))
    return SRResult(picture, bicubic, dict(chain.seconds), tile)
