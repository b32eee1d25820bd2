"""Upscaler: pictures in, pictures out. Bicubic → pad → chain (tiled where large) → crop → colours → resize."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from passionsr_trt.engines.bundle.wiring import sources_of
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.pictures import chain_sources, to_array, upscale, upscale_deep
from passionsr_trt.runtime.core.chain import Arrays, Chain
from passionsr_trt.runtime.core.colour import align
from passionsr_trt.runtime.core.observing import PictureObserver, Plan, TileWatch, plan_of
from passionsr_trt.runtime.core.ordered import attempt
from passionsr_trt.runtime.core.planning import Options, Tiles
from passionsr_trt.runtime.core.tiling import PictureRun, Watch, run_pictures
from passionsr_trt.runtime.pictures.images import resized, resized_deep, to_deep, to_image
from PIL import Image

Given = Image.Image | np.ndarray  # 8-bit RGB; or float32 [3, H, W] in [-1, 1], of a picture of more bits
K = TypeVar("K")
Started = tuple[K, "Prepared | None", PictureObserver | None]


@dataclass(frozen=True)
class SRResult:
    """The picture, what it was made from, the model's factor, seconds per part, tiles (None: untiled).

    The picture alone is of `Options.outscale`.
    deep: the picture in 16 bits, uint16 [H, W, 3], where what was given had more than 8.
    """

    image: Image.Image
    given: Given
    factor: int
    seconds: dict[str, float]
    tiles: Tiles | None
    deep: np.ndarray | None = None

    @property
    def bicubic(self) -> Image.Image:
        """The bicubic enlargement, made anew each time: few ask for it, and of a large picture it is large."""
        if isinstance(self.given, np.ndarray):
            return to_image(upscale_deep(self.given, self.factor))
        return upscale(self.given, self.factor)


@dataclass(frozen=True)
class Prepared:
    """A picture on its way into the chain. enlarged: the bicubic enlargement as an array [3, H, W]; zeros, which
    take no memory, where neither a part nor the colour fix sees it.
    """

    given: Given
    enlarged: np.ndarray
    sources: Arrays
    plan: Plan


def super_resolve(
    chain: Chain,
    image: Given,
    options: Options,
    watch: Watch | None = None,
    observer: PictureObserver | None = None,
) -> SRResult:
    """RGB of any size → RGB, `upscale` times as large. watch: is told of every tile, and may raise to give up.
    observer: is told what the picture will be, of its tiles where there is no watch, and when it is computed.
    """
    observe = None if observer is None else lambda _key: observer
    ((_, result),) = super_resolve_each(chain, [(None, image)], options, watch, observe)
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
    chain: Chain,
    images: Iterable[tuple[K, Given | Exception]],
    options: Options,
    watch: Watch | None = None,
    observe: Callable[[K], PictureObserver] | None = None,
) -> Generator[tuple[K, SRResult | Exception]]:
    """The same of images that come with what they are known by. observe: gives the observer of each; watch: is
    told of every tile and every part of all of them.
    """

    def started(key: K, image: Given) -> PictureRun[Started[K]]:
        given = image.shape[1:] if isinstance(image, np.ndarray) else (image.height, image.width)
        plan = plan_of(chain, (given[0], given[1]), options)
        observer = None if observe is None else observe(key)
        told = watch
        if observer is not None:
            observer.begins(plan)  # a large picture takes seconds to prepare
            if told is None and plan.tiles is not None:  # an untiled one goes through all parts at once
                told = TileWatch(observer.advances, plan)
        prepared = prepare(chain, image, plan, options)
        return PictureRun((key, prepared, observer), chain, dict(prepared.sources), plan.tiles, told)

    def runs() -> Iterator[PictureRun[Started[K]]]:
        for key, image in images:
            run = image if isinstance(image, Exception) else attempt(partial(started, key, image))
            yield PictureRun((key, None, None), chain, {}, error=run) if isinstance(run, Exception) else run

    def ended(run: PictureRun[Started[K]]) -> tuple[K, SRResult | Exception]:
        key, prepared, observer = run.given
        if run.error is not None or prepared is None:
            result: SRResult | Exception = run.error or UserError("no picture")
        else:
            result = attempt(partial(finish, chain, prepared, run, options))
            run.tensors.clear()  # while the next picture is prepared this one takes no memory
        if observer is not None:
            observer.ends()
        return key, result

    with closing(run_pictures(chain, runs())) as ready:
        yield from map(ended, ready)


def prepare(chain: Chain, image: Given, plan: Plan, options: Options) -> Prepared:
    """The chain's sources for a picture."""
    factor = chain.model.upscale
    if "image" not in sources_of(chain.parts) and (options.align or chain.model.align) == "none":
        height, width = plan.given
        enlarged = np.broadcast_to(np.float32(0), (3, factor * height, factor * width))
    elif isinstance(image, np.ndarray):
        enlarged = upscale_deep(image, factor)
    else:
        enlarged = to_array(upscale(image, factor))
    return Prepared(image, enlarged, chain_sources(image, enlarged, chain.parts, options.seed, chain.least), plan)


def finish(chain: Chain, prepared: Prepared, run: PictureRun[Any], options: Options) -> SRResult:
    """Crop, clamp, colours."""
    enlarged = prepared.enlarged
    if not np.isfinite(run.tensors[chain.output]).all():
        raise UserError(f"{chain.label} gave what is no number", "expected a picture", "try float engines")
    result = run.tensors[chain.output][0, :, : enlarged.shape[1], : enlarged.shape[2]]
    np.clip(result, -1.0, 1.0, out=result)
    result = align(result, enlarged, options.align or chain.model.align)
    image, deep = to_image(result), to_deep(result) if isinstance(prepared.given, np.ndarray) else None
    if options.outscale is not None and options.outscale != chain.model.upscale:
        size = prepared.plan.result
        image, deep = resized(image, size), None if deep is None else resized_deep(deep, size)
    return SRResult(image, prepared.given, chain.model.upscale, run.seconds, prepared.plan.tiles, deep)
