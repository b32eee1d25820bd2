"""From files to files: pictures are read ahead, upscaled in order, and written behind."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from passionsr_trt.engines.common.errors import printable
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.planning import Options, plan_tiles
from passionsr_trt.runtime.core.upscaler import Given, attempt, super_resolve_all
from passionsr_trt.runtime.pictures.images import Picture, header_size, read_picture, save_image
from passionsr_trt.runtime.pictures.written import as_written
from tqdm import tqdm


def by_size(pairs: dict[Path, Path], chain: Chain) -> dict[Path, Path]:
    """The same pictures with those of one padded size together, in order of first appearance: engines are compiled
    for a size once. What cannot be read keeps its place among its like, and fails when its turn comes.
    """
    groups: dict[tuple[int, ...], dict[Path, Path]] = {}
    for source, target in pairs.items():
        padded = tuple(-(-side * chain.model.upscale // chain.multiple) for side in header_size(source))
        groups.setdefault(padded, {})[source] = target
    return {source: target for group in groups.values() for source, target in group.items()}


@dataclass(frozen=True)
class Finished:
    """A picture that the chain is done with. writing: its file's, or what went wrong before."""

    source: Path
    writing: Future[None] | Exception
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return isinstance(self.writing, Exception) or self.writing.done()

    def told(self) -> tuple[Path, Exception | None]:
        """What went wrong with it, or None, when it is written; what there is to say is said on stderr."""
        for note in self.notes:
            tqdm.write(printable(f"{self.source}: {note}"), file=sys.stderr)
        wrong = self.writing if isinstance(self.writing, Exception) else attempt(self.writing.result)
        return self.source, wrong


def upscale_all(
    chain: Chain,
    pairs: dict[Path, Path],
    options: Options,
    progress: tqdm[Any],
    streams: int = 1,
    reading: Callable[[Callable[[Path], Picture], Path], Picture] | None = None,
) -> Iterator[tuple[Path, Exception | None]]:
    """From files to files; gives for each picture what went wrong with it, or None, in the pictures' order.

    While the chain works on `streams` pictures, as many are read ahead and as many written.
    reading: is called with what reads and a picture's path, in the threads that read.
    """
    read_one: Callable[[Path], Picture] = partial(read_fitting, chain, options)
    if reading is not None:
        read_one = partial(reading, read_one)
    finished: deque[Finished] = deque()  # and not told yet
    read: deque[tuple[Path, Picture | Exception]] = deque()  # and not given back yet

    def images() -> Iterator[Given | Exception]:
        for source, reading in read_ahead(reader, pairs, read_one, streams):
            picture = attempt(reading.result)
            read.append((source, picture))
            yield picture if isinstance(picture, Exception) else picture.given

    with ThreadPoolExecutor(streams) as reader, ThreadPoolExecutor(streams) as writer:
        for result in super_resolve_all(chain, images(), options):
            source, picture = read.popleft()
            if isinstance(picture, Exception):
                finished.append(Finished(source, picture))
            elif isinstance(result, Exception):
                finished.append(Finished(source, result))
            else:
                tiles = (f"done in {result.tiles}",) if result.tiles and options.tile is None else ()
                seconds = sum(result.seconds.values())
                progress.set_postfix_str(f"{seconds:.2f} s, {result.image.width}×{result.image.height}")
                target, background = pairs[source], options.background
                left_out = as_written(picture, target, background).notes
                save = partial(save_image, background=background, deep=result.deep)
                writing = writer.submit(save, result.image, target, picture)
                finished.append(Finished(source, writing, (*picture.notes, *left_out, *tiles)))
            while finished and (len(finished) > streams or finished[0].ready):
                yield finished.popleft().told()
        while finished:
            yield finished.popleft().told()


def read_fitting(chain: Chain, options: Options, source: Path) -> Picture:
    """A picture; its size in the header says whether it fits into memory, before anything of it is decoded."""
    height, width = header_size(source)
    if height:
        sides = (side * chain.model.upscale for side in (height, width))
        padded = [-(-side // chain.multiple) * chain.multiple for side in sides]
        least = (0, 0) if chain.limits is None else chain.limits[0]
        plan_tiles((max(padded[0], least[0]), max(padded[1], least[1])), chain, options)
    return read_picture(source)


def read_ahead(
    reader: Executor, sources: Iterable[Path], read: Callable[[Path], Picture], ahead: int
) -> Iterator[tuple[Path, Future[Picture]]]:
    """Each picture while `ahead` after it are being read."""
    waiting: deque[tuple[Path, Future[Picture]]] = deque()
    for source in sources:
        waiting.append((source, reader.submit(read, source)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
