"""Which file each picture becomes: in a folder of outputs, or beside the picture.

`a/b.jpg` in the folder that was given becomes `a/b.jpg` in the output, or `a/b_x4.jpg` beside itself. A file keeps
its format where that is one of those that are written, else it becomes a PNG; or all are of one format. Where two
would become one, a name that ends in the output's format keeps it and the format is added to the others: `a.png` →
`a.png`, `a.jpg` → `a.jpg.png`. What meets even so, or would be written over a picture that was given, is refused;
the rest is done.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.common.temporaries import prefix
from passionsr_trt.engines.pictures.files import OTHER, READABLE, SUFFIXES, Found, is_folder, suffix_of
from passionsr_trt.runtime.pictures.images import JPEG, WRITABLE, check_output

JPEGS = (*READABLE.get("JPEG", ()), *READABLE.get("MPO", ()))  # whatever they are called
ENLARGED = re.compile(r"_x\d{1,2}(\.\d{1,4})?\Z")  # how names of outputs end unless the user says otherwise


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


def name_outputs(found: list[Found], output: Path, kind: str | None) -> Outputs:
    """kind: `png`, `jpg` or `webp`, of files in a folder; None: each its own. UsageError for an `output` that is
    neither a folder nor such a file, or a file of another format than `kind`.
    """
    if is_file(output):
        if len(found) > 1:
            raise UsageError(f"{output}: one file for {len(found)} images", "expected a folder")
        check_output(output)
        if kind is not None and kind != _kind_of(output):
            raise UsageError(
                f"-o {output} with --format {kind}", f"expected a name ending in .{kind}, or no --format"
            )
        return guarded({found[0].path: output}, found, Outputs())
    suffix = suffix_of(output.name)
    written = f"a folder, or a name ending in {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}"
    if (os.path.lexists(output) and not is_folder(output)) or suffix in WRITABLE:
        raise UsageError(f"{output}: is no folder", f"expected {written}")
    if suffix in SUFFIXES or (OTHER.fullmatch(suffix) and not is_folder(output)):
        raise UsageError(f"{output}: {suffix} is a format that is not written", f"expected {written}")
    return in_folder(found, output, kind)


def _kind_of(output: Path) -> str:
    """As --format names it."""
    suffix = output.suffix.lower()
    return "jpg" if suffix in JPEG else suffix[1:]


def in_folder(found: list[Found], output: Path, kind: str | None, *reserved: str) -> Outputs:
    """The same where `output` is, or becomes, a folder. reserved: names there that no picture gets."""
    outputs = Outputs()
    names = named(found, output, kind, outputs, reserved)
    return guarded({path: output / name for path, name in names.items()}, found, outputs)


def beside(found: list[Found], kind: str | None, suffix: str) -> Outputs:
    """Each in its picture's own folder, with `suffix` added to its name."""
    outputs = Outputs()
    whole = [replace(picture, name=picture.path.as_posix()) for picture in found]
    names = named(whole, Path(), kind, outputs, suffix=suffix)
    pairs = {path: Path(name) for path, name in names.items()}
    return guarded(pairs, found, outputs, "another --suffix, -o or another --format")


def named_as_output(stem: str, suffix: str = "") -> bool:
    """Does a name, without `.jpg`, end as those do that are written beside pictures? suffix: this run's."""
    return bool(suffix and stem.endswith(suffix)) or ENLARGED.search(stem) is not None


def source_stem(stem: str, suffix: str = "") -> str:
    """Of the picture that one of such a name was made from."""
    return stem.removesuffix(suffix) if suffix and stem.endswith(suffix) else ENLARGED.sub("", stem)


def ending(name: str, kind: str | None) -> str:
    """`.png` and the like, of a file's output; kind None: its own as it is spelled, where that can be written."""
    if kind is not None:
        return f".{kind}"
    own = Path(name).suffix
    if own.lower() in WRITABLE:
        return own
    return ".jpg" if suffix_of(name) in JPEGS else ".png"


def named(
    found: list[Found],
    output: Path,
    kind: str | None,
    outputs: Outputs,
    reserved: Collection[str] = (),
    suffix: str = "",
) -> dict[Path, str]:
    """Input → name in the output, none twice; the rest goes to `outputs`."""
    unique = list({picture.path: picture for picture in found}.values())
    ends = {picture.path: ending(picture.name, kind) for picture in unique}

    def renamed(picture: Found, kept: str) -> str:
        return Path(picture.name).with_name(f"{kept}{suffix}{ends[picture.path]}").as_posix()

    plain = {picture.path: renamed(picture, Path(picture.name).stem) for picture in unique}
    twins = len({name.casefold() for name in plain.values()}) < len(set(plain.values()))
    folds = twins and folds_case(output / next(iter(plain.values())))

    def key(name: str) -> str:
        return name.casefold() if folds else name

    met = Counter(key(name) for name in plain.values())
    names: dict[Path, str] = {}
    for picture in unique:
        name = plain[picture.path]
        twin = met[key(name)] > 1 and not key(picture.name).endswith(key(ends[picture.path]))
        if twin or name.casefold() in reserved:
            name = renamed(picture, Path(picture.name).name)
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


ELSEWHERE = "another output folder, or another --format"


def guarded(pairs: dict[Path, Path], found: list[Found], outputs: Outputs, expected: str = ELSEWHERE) -> Outputs:
    """Without those that would be written over a picture that was given. expected: which options help."""
    given = {os.path.realpath(picture.path): picture.path for picture in found}
    for source, target in pairs.items():
        over = source if _same_but_for_case(source, target) else given.get(os.path.realpath(target))
        if over is None:
            outputs.pairs[source] = target
        else:
            what = "its own input" if over == source else f"{over}, an input"
            outputs.refused.append(f"{source}: {target} would overwrite {what}; expected {expected}")
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
