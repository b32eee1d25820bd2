"""From files to files: pictures are read ahead, upscaled in order, written behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.free_memory import in_words
from passionsr_trt.engines.pictures.pictures import Picture, header_size, read_picture
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.observing import PictureObserver
from passionsr_trt.runtime.core.ordered import attempt, ordered
from passionsr_trt.runtime.core.planning import Options, plan_tiles
from passionsr_trt.runtime.core.upscaler import Given, SRResult, super_resolve_each
from passionsr_trt.runtime.pictures.images import as_written, check_side, save_image

Read = tuple[Path, Picture | Exception]
RESIZED = (
    12  # bytes a pixel of a result that is resized: itself, as Pillow keeps it, its rows on the way, its file's
)


@dataclass(frozen=True)
class Upscaled:
    """What became of a file. error: what went wrong, None where it is written. notes: lines to be said of it."""

    source: Path
    error: Exception | None
    notes: tuple[str, ...] = ()


Writing = tuple[Upscaled, Future[None] | None]


def upscale_all(
    chain: Chain,
    pairs: dict[Path, Path],
    options: Options,
    streams: int = 1,
    read: Callable[[Path], Picture] | None = None,
    observe: Callable[[Path], PictureObserver] | None = None,
    wrote: Callable[[Path], None] = lambda _source: None,
) -> Iterator[Upscaled]:
    """Input → output, in the pictures' order. read: in place of `read_fitting`, in other threads; observe: gives
    each input's observer. wrote: is told of an input as soon as its output is there, in other threads too.

    While the chain works on `streams` pictures, as many are read ahead and as many written.
    """

    def read_one(source: Path) -> Picture:
        check_result(header_size(source), chain, options, pairs[source])
        return read_fitting(chain, options, source) if read is None else read(source)

    def given(found: Read) -> tuple[Read, Given | Exception]:
        return found, found[1] if isinstance(found[1], Exception) else found[1].given

    observe_read = None if observe is None else lambda found: observe(found[0])

    def written(writing: Writing) -> Upscaled:
        made, file = writing
        return made if file is None else replace(made, error=attempt(file.result))

    with ThreadPoolExecutor(streams) as reader, ThreadPoolExecutor(streams) as writer:
        read_ahead: Iterator[Read] = ordered(
            pairs,
            lambda source: (source, reader.submit(read_one, source)),
            lambda reading: (reading[0], attempt(reading[1].result)),
            streams + 1,
        )
        yield from ordered(
            super_resolve_each(chain, map(given, read_ahead), options, observe=observe_read),
            lambda made: begin_writing(writer, *made[0], made[1], pairs[made[0][0]], options, wrote),
            written,
            streams + 1,
            lambda waiting: waiting[0][1] is None or waiting[0][1].done(),
        )


def begin_writing(
    writer: ThreadPoolExecutor,
    source: Path,
    picture: Picture | Exception,
    result: SRResult | Exception,
    target: Path,
    options: Options,
    wrote: Callable[[Path], None],
) -> Writing:
    """What is known of a picture that the chain is done with, and its file, None where it failed before."""
    if isinstance(picture, Exception):
        return Upscaled(source, picture), None
    if isinstance(result, Exception):
        return Upscaled(source, result), None
    notes = (*picture.notes, *as_written(picture, target, options.background).notes)
    save = partial(save_image, result.image, target, picture, background=options.background, deep=result.deep)

    def write() -> None:
        save()
        wrote(source)

    return Upscaled(source, None, notes), writer.submit(write)


def by_size(pairs: dict[Path, Path], chain: Chain, sizes: Mapping[Path, Size] | None = None) -> dict[Path, Path]:
    """The same pictures with those of one padded size together, in order of first appearance: engines are compiled
    for a size once. What cannot be read keeps its place among its like, and fails when its turn comes.

    sizes: the pictures' own, where they are known.
    """
    groups: dict[tuple[int, ...], dict[Path, Path]] = {}
    for source, target in pairs.items():
        size = header_size(source) if sizes is None else sizes[source]
        padded = tuple(-(-side * chain.model.upscale // chain.multiple) for side in size)
        groups.setdefault(padded, {})[source] = target
    return {source: target for group in groups.values() for source, target in group.items()}


def check_result(given: Size, chain: Chain, options: Options, target: Path) -> None:
    """UserError where a picture's result is larger than its format, or the memory that is free, can hold."""
    size = options.result_size(given, chain.model.upscale)
    check_side(size, target)
    allowed = options.memory or (chain.memory.free if chain.memory is not None else 0)
    needed = RESIZED * math.prod(size)
    if options.outscale is not None and allowed and needed > allowed:
        fact = f"{target}: {size[1]}×{size[0]} pixels take {in_words(needed)}"
        raise UserError(fact, f"{in_words(allowed)} may be taken", "a smaller --outscale needs less")


def read_fitting(chain: Chain, options: Options, source: Path) -> Picture:
    """A picture; its size in the header says whether it fits into memory, before anything of it is decoded."""
    size = header_size(source)
    if size[0]:
        plan_tiles(chain.padded(size), chain, options)
    return read_picture(source)
