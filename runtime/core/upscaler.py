"""Upscaler: pictures in, pictures out. Bicubic → pad → chain (tiled where large) → crop → colours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from passionsr_trt.engines.bundle.wiring import picture_size, sources_of
from passionsr_trt.engines.common.errors import EngineError, UserError
from passionsr_trt.runtime.core.chain import Arrays, Chain, Done
from passionsr_trt.runtime.core.colour import align
from passionsr_trt.runtime.core.planning import Options, plan_tiles
from passionsr_trt.runtime.core.tiling import Tiles, Watch, run_tiled, run_watched
from passionsr_trt.runtime.pictures.images import chain_sources, to_array, to_deep, to_image, upscale, upscale_deep
from PIL import Image

T = TypeVar("T")
Given = Image.Image | np.ndarray  # 8-bit RGB; or float32 [3, H, W] in [-1, 1], of a picture of more bits
FAILURES = (UserError, MemoryError)  # of one image, which must not lose the others


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


def super_resolve(chain: Chain, image: Given, options: Options) -> SRResult:
    """RGB of any size → RGB, `upscale` times as large."""
    (result,) = super_resolve_all(chain, [image], options)
    if isinstance(result, Exception):
        raise result
    return result


def super_resolve_watched(chain: Chain, image: Given, options: Options, watch: Watch) -> SRResult:
    """What `super_resolve` gives; `watch` is told of every tile and may raise to give up."""
    prepared = _prepare(chain, image, options)
    if prepared.tiles is None:
        done = run_watched(chain, prepared.sources, watch)
    else:
        done = run_tiled(chain, prepared.sources, prepared.tiles, watch)
    return finish(chain, prepared, done, options)


def super_resolve_all(
    chain: Chain, images: Iterable[Given | Exception], options: Options
) -> Iterator[SRResult | Exception]:
    """Image by image, in order; an image is asked for, and one finished, while the chain works on another.

    An image that fails gives its exception in its place, as one does that is handed in.
    """
    under_way: deque[tuple[Prepared, Any]] = deque()

    def oldest() -> SRResult | Exception:
        prepared, ticket = under_way.popleft()
        return attempt(lambda: finish(chain, prepared, chain.executor.collect(ticket), options))

    try:
        for image in images:
            prepared = prepare(chain, image, options)
            if isinstance(prepared, Prepared) and prepared.tiles is None:
                ticket = attempt(partial(chain.begin, prepared.sources))
                if not isinstance(ticket, Exception):
                    under_way.append((prepared, ticket))
                    if len(under_way) >= chain.executor.depth:
                        yield oldest()
                    continue
                prepared = ticket
            while under_way:
                yield oldest()
            yield (
                prepared if isinstance(prepared, Exception) else attempt(partial(tiled, chain, prepared, options))
            )
        while under_way:
            yield oldest()
    finally:
        while under_way:
            oldest()


def attempt(work: Callable[[], T]) -> T | Exception:
    """What work gives, or what went wrong with this one image; anything else is raised."""
    try:
        return work()
    except EngineError:
        raise
    except FAILURES as error:
        return error


def tiled(chain: Chain, prepared: Prepared, options: Options) -> SRResult:
    assert prepared.tiles is not None
    return finish(chain, prepared, run_tiled(chain, prepared.sources, prepared.tiles), options)


def prepare(chain: Chain, image: Given | Exception, options: Options) -> Prepared | Exception:
    """The chain's sources for an image and its tiles, or what is wrong with it."""
    if isinstance(image, Exception):
        return image
    return attempt(lambda: _prepare(chain, image, options))


def _prepare(chain: Chain, image: Given, options: Options) -> Prepared:
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


def finish(chain: Chain, prepared: Prepared, done: Done, options: Options) -> SRResult:
    """Crop, clamp, colours."""
    enlarged = prepared.enlarged
    if not np.isfinite(done.tensors[chain.output]).all():
        raise UserError(f"{chain.label} gave what is no number", "expected a picture", "try float engines")
    result = done.tensors[chain.output][0, :, : enlarged.shape[1], : enlarged.shape[2]]
    np.clip(result, -1.0, 1.0, out=result)
    result = align(result, enlarged, options.align or chain.model.align)
    deep = to_deep(result) if prepared.deep else None
    return SRResult(to_image(result), prepared.bicubic, done.seconds, prepared.tiles, deep)
