"""Upscaler: pictures in, pictures out. Bicubic → pad → chain (tiled where large) → crop → colours."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from passionsr_trt.engines.bundle.wiring import picture_size, sources_of
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.pictures import chain_sources, to_array, upscale, upscale_deep
from passionsr_trt.runtime.core.chain import Arrays, Chain
from passionsr_trt.runtime.core.colour import align
from passionsr_trt.runtime.core.ordered import attempt
from passionsr_trt.runtime.core.planning import Options, Tiles, plan_tiles
from passionsr_trt.runtime.core.tiling import PictureRun, Watch, run_pictures
from passionsr_trt.runtime.pictures.images import to_deep, to_image
from PIL import Image

Given = Image.Image | np.ndarray  # 8-bit RGB; or float32 [3, H, W] in [-1, 1], of a picture of more bits
K = TypeVar("K")


@dataclass(frozen=True)
class SRResult:
    """The picture, the bicubic enlargement it started from, seconds per part, tiles (None: untiled).

    deep: the picture in 16 bits, uint16 [H, W, 3], where what was given had more than 8.
    """

    image: Image.Image
    bicubic: Image.Image
    seconds: dict[str, float]
    tiles: Tiles | None
    deep: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """A picture on its way into the chain. enlarged: the bicubic enlargement as an array [3, H, W]."""

    bicubic: Image.Image
    enlarged: np.ndarray
    sources: Arrays
    tiles: Tiles | None
    deep: bool = False


def super_resolve(chain: Chain, image: Given, options: Options, watch: Watch | None = None) -> SRResult:
    """RGB of any size → RGB, `upscale` times as large. watch: is told of every tile, and may raise to give up."""
    ((_, result),) = super_resolve_each(chain, [(None, image)], options, watch)
    if isinstance(result, Exception):
        raise result
    return result


def super_resolve_all(
    chain: Chain, images: Iterable[Given | Exception], options: Options
) -> Iterator[SRResult | Exception]:
    """Image by image, in order; an image is asked for, and one finished, while the chain works on another.

    An image that fails gives its exception in its place, as one does that is handed in.
    """
    return (result for _, result in super_resolve_each(chain, ((None, image) for image in images), options))


def super_resolve_each(
    chain: Chain, images: Iterable[tuple[K, Given | Exception]], options: Options, watch: Watch | None = None
) -> Generator[tuple[K, SRResult | Exception]]:
    """The same of images that come with what they are known by."""

    def runs() -> Iterator[PictureRun[tuple[K, Prepared | None]]]:
        for key, image in images:
            prepared = image if isinstance(image, Exception) else attempt(partial(prepare, chain, image, options))
            if isinstance(prepared, Exception):
                yield PictureRun((key, None), chain, {}, error=prepared)
            else:
                yield PictureRun((key, prepared), chain, dict(prepared.sources), prepared.tiles, watch)

    def ended(run: PictureRun[tuple[K, Prepared | None]]) -> tuple[K, SRResult | Exception]:
        key, prepared = run.given
        if run.error is not None or prepared is None:
            return key, run.error or UserError("no picture")
        result = attempt(partial(finish, chain, prepared, run, options))
        run.tensors.clear()  # while the next picture is prepared this one takes no memory
        return key, result

    with closing(run_pictures(chain, runs())) as ready:
        yield from map(ended, ready)


def prepare(chain: Chain, image: Given, options: Options) -> Prepared:
    """The chain's sources for a picture, and its tiles."""
    deep = isinstance(image, np.ndarray)
    if isinstance(image, np.ndarray):
        enlarged = upscale_deep(image, chain.model.upscale)
        bicubic = to_image(enlarged)
    else:
        bicubic = upscale(image, chain.model.upscale)
        enlarged = to_array(bicubic)
    least = (0, 0) if chain.limits is None else chain.limits[0]
    sources = chain_sources(image, enlarged, chain.parts, options.seed, least)
    size = picture_size(sources_of(chain.parts).values(), {name: x.shape for name, x in sources.items()})
    return Prepared(bicubic, enlarged, sources, plan_tiles(size, chain, options), deep)


def finish(chain: Chain, prepared: Prepared, run: PictureRun[Any], options: Options) -> SRResult:
    """Crop, clamp, colours."""
    enlarged = prepared.enlarged
    if not np.isfinite(run.tensors[chain.output]).all():
        raise UserError(f"{chain.label} gave what is no number", "expected a picture", "try float engines")
    result = run.tensors[chain.output][0, :, : enlarged.shape[1], : enlarged.shape[2]]
    np.clip(result, -1.0, 1.0, out=result)
    result = align(result, enlarged, options.align or chain.model.align)
    deep = to_deep(result) if prepared.deep else None
    return SRResult(to_image(result), prepared.bicubic, run.seconds, prepared.tiles, deep)
