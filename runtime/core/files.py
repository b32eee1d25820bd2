"""From files to files: which file each picture becomes; they are read ahead, upscaled in order, written behind.

`a/b.jpg` in the folder that was given becomes `a/b.png` in the output. Where two would become one, a name that
ends in the output's format keeps it and the format is added to the others: `a.png` → `a.png`, `a.jpg` →
`a.jpg.png`. What meets even so, or would be written over a picture that was given, is refused; the rest is done.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.common.temporaries import prefix
from passionsr_trt.engines.pictures.files import OTHER, SUFFIXES, Found, is_folder, suffix_of
from passionsr_trt.engines.pictures.pictures import Picture, header_size, read_picture
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.ordered import attempt, ordered
from passionsr_trt.runtime.core.planning import Options, plan_tiles
from passionsr_trt.runtime.core.upscaler import Given, SRResult, super_resolve_each
from passionsr_trt.runtime.pictures.images import WRITABLE, as_written, check_output, save_image

Read = tuple[Path, Picture | Exception]


@dataclass(frozen=True)
class Upscaled:
    """What became of a file. error: what went wrong, None where it is written. notes: lines to be said of it;
    figures: its seconds and size.
    """

    source: Path
    error: Exception | None
    notes: tuple[str, ...] = ()
    figures: str = ""


Writing = tuple[Upscaled, Future[None] | None]


def upscale_all(
    chain: Chain,
    pairs: dict[Path, Path],
    options: Options,
    streams: int = 1,
    read: Callable[[Path], Picture] | None = None,
) -> Iterator[Upscaled]:
    """Input → output, in the pictures' order. read: in place of `read_fitting`, in other threads.

    While the chain works on `streams` pictures, as many are read ahead and as many written.
    """
    read_one = read or partial(read_fitting, chain, options)

    def given(found: Read) -> tuple[Read, Given | Exception]:
        return found, found[1] if isinstance(found[1], Exception) else found[1].given

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
            super_resolve_each(chain, map(given, read_ahead), options),
            lambda made: begin_writing(writer, *made[0], made[1], pairs[made[0][0]], options),
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
) -> Writing:
    """What is known of a picture that the chain is done with, and its file, None where it failed before."""
    if isinstance(picture, Exception):
        return Upscaled(source, picture), None
    if isinstance(result, Exception):
        return Upscaled(source, result), None
    tiles = (f"done in {result.tiles}",) if result.tiles and options.tile is None else ()
    notes = (*picture.notes, *as_written(picture, target, options.background).notes, *tiles)
    figures = f"{sum(result.seconds.values()):.2f} s, {result.image.width}×{result.image.height}"
    save = partial(save_image, background=options.background, deep=result.deep)
    return Upscaled(source, None, notes, figures), writer.submit(save, result.image, target, picture)


def by_size(pairs: dict[Path, Path], chain: Chain) -> dict[Path, Path]:
    """The same pictures with those of one padded size together, in order of first appearance: engines are compiled
    for a size once. What cannot be read keeps its place among its like, and fails when its turn comes.
    """
    groups: dict[tuple[int, ...], dict[Path, Path]] = {}
    for source, target in pairs.items():
        padded = tuple(-(-side * chain.model.upscale // chain.multiple) for side in header_size(source))
        groups.setdefault(padded, {})[source] = target
    return {source: target for group in groups.values() for source, target in group.items()}


def read_fitting(chain: Chain, options: Options, source: Path) -> Picture:
    """A picture; its size in the header says whether it fits into memory, before anything of it is decoded."""
    height, width = header_size(source)
    if height:
        sides = (side * chain.model.upscale for side in (height, width))
        padded = [-(-side // chain.multiple) * chain.multiple for side in sides]
        least = (0, 0) if chain.limits is None else chain.limits[0]
        plan_tiles((max(padded[0], least[0]), max(padded[1], least[1])), chain, options)
    return read_picture(source)


@dataclass
class Outputs:
    """pairs: input → output; refused: why some have none, a line each; longer: names that were added to."""

    pairs: dict[Path, Path] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    longer: list[str] = field(default_factory=list)

    def line(self) -> str:
        """What is to be said of longer names."""
        if not self.longer:
            return ""
        others = f" and {len(self.longer) - 1} more" if len(self.longer) > 1 else ""
        return f"{self.longer[0]}{others}: others differ from them in the suffix alone"


def is_file(output: Path) -> bool:
    """Is it one picture that is to be written, not a folder?"""
    return output.suffix.lower() in WRITABLE and not is_folder(output)


def name_outputs(found: list[Found], output: Path, kind: str) -> Outputs:
    """kind: `png`, `jpg` or `webp`, of files in a folder. UsageError for an `output` that cannot be one."""
    if is_file(output):
        if len(found) > 1:
            raise UsageError(f"{output}: one file for {len(found)} images", "expected a folder")
        check_output(output)
        return guarded({found[0].path: output}, found, Outputs())
    suffix = suffix_of(output.name)
    written = f"a folder, or a name ending in {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}"
    if (os.path.lexists(output) and not is_folder(output)) or suffix in WRITABLE:
        raise UsageError(f"{output}: is no folder", f"expected {written}")
    if suffix in SUFFIXES or (OTHER.fullmatch(suffix) and not is_folder(output)):
        raise UsageError(f"{output}: {suffix} is a format that is not written", f"expected {written}")
    return in_folder(found, output, kind)


def in_folder(found: list[Found], output: Path, kind: str, *reserved: str) -> Outputs:
    """The same where `output` is, or becomes, a folder. reserved: names there that no picture gets."""
    outputs = Outputs()
    names = named(found, output, kind, outputs, reserved)
    return guarded({path: output / name for path, name in names.items()}, found, outputs)


def plain_name(name: str, kind: str) -> str:
    path = Path(name)
    return path.with_name(f"{path.stem}.{kind}").as_posix()


def named(
    found: list[Found], output: Path, kind: str, outputs: Outputs, reserved: Collection[str] = ()
) -> dict[Path, str]:
    """Input → name in the output, none twice; the rest goes to `outputs`."""
    unique = list({picture.path: picture for picture in found}.values())
    plain = {picture.path: plain_name(picture.name, kind) for picture in unique}
    folds = len({name.casefold() for name in plain.values()}) < len(set(plain.values())) and folds_case(output)

    def key(name: str) -> str:
        return name.casefold() if folds else name

    met = Counter(key(name) for name in plain.values())
    names: dict[Path, str] = {}
    for picture in unique:
        name = plain[picture.path]
        twin = met[key(name)] > 1 and not key(picture.name).endswith(f".{kind}")
        if twin or name.casefold() in reserved:
            name = f"{picture.name}.{kind}"
        names[picture.path] = name
    taken: dict[str, Found] = {}
    # who has a plain name comes first, whatever the order
    for picture in sorted(unique, key=lambda picture: names[picture.path] != plain[picture.path]):
        name = names[picture.path]
        other = taken.setdefault(key(name), picture)
        if other is picture:
            if name != plain[picture.path]:
                outputs.longer.append(f"{picture.path} → {name}")
            continue
        del names[picture.path]
        if os.path.realpath(other.path) != os.path.realpath(picture.path):
            outputs.refused.append(
                f"{picture.path}: would become {name}, as {other.path}; expected different names; run them apart"
            )
    return names


def guarded(pairs: dict[Path, Path], found: list[Found], outputs: Outputs) -> Outputs:
    """Without those that would be written over a picture that was given."""
    given = {os.path.realpath(picture.path): picture.path for picture in found}
    for source, target in pairs.items():
        over = source if _same_but_for_case(source, target) else given.get(os.path.realpath(target))
        if over is None:
            outputs.pairs[source] = target
        else:
            what = "its own input" if over == source else f"{over}, an input"
            outputs.refused.append(
                f"{source}: {target} would overwrite {what}; expected another output folder, or another --format"
            )
    return outputs


def _same_but_for_case(source: Path, target: Path) -> bool:
    """`a.PNG` and `a.png` may be one file."""
    try:
        return str(source.absolute()).casefold() == str(target.absolute()).casefold() and source.samefile(target)
    except OSError:
        return False


def folds_case(folder: Path) -> bool:
    """Does the disk there take `A` and `a` for one name? False where it cannot be tried."""
    there = next((place for place in (folder, *folder.parents) if is_folder(place)), Path())
    try:
        with tempfile.NamedTemporaryFile(prefix=prefix(), suffix="-case", dir=there) as file:
            path = Path(file.name)
            return path.with_name(path.name[:-4] + "CASE").exists()
    except OSError:
        return False
