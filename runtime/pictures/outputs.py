"""Which file each picture becomes, and which pictures have none.

`a/b.jpg` in the folder that was given becomes `a/b.png` in the output. Where two would become one, a name that
ends in the output's format keeps it and the format is added to the others: `a.png` → `a.png`, `a.jpg` →
`a.jpg.png`. What meets even so, or would be written over a picture that was given, is refused; the rest is done.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.common.temporaries import prefix
from passionsr_trt.engines.pictures.files import SUFFIXES, Found, is_folder, suffix_of
from passionsr_trt.runtime.pictures.images import WRITABLE, check_output


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


def plan_outputs(found: list[Found], output: Path, kind: str) -> Outputs:
    """kind: `png`, `jpg` or `webp`, of files in a folder. UsageError for an `output` that cannot be one."""
    if is_file(output):
        if len(found) > 1:
            raise UsageError(f"{output}: one file for {len(found)} images", "expected a folder")
        check_output(output)
        return guarded({found[0].path: output}, found, Outputs())
    if (os.path.lexists(output) and not is_folder(output)) or suffix_of(output.name) in SUFFIXES:
        raise UsageError(f"{output}: is no folder", "expected one, or a name ending in .png, .jpg or .webp")
    return in_folder(found, output, kind)


def in_folder(found: list[Found], output: Path, kind: str, reserved: str = "") -> Outputs:
    """The same where `output` is, or becomes, a folder. reserved: a name there that no picture gets."""
    planned = Outputs()
    names = named(found, output, kind, planned, reserved)
    return guarded({path: output / name for path, name in names.items()}, found, planned)


def plain_name(name: str, kind: str) -> str:
    path = Path(name)
    return path.with_name(f"{path.stem}.{kind}").as_posix()


def named(found: list[Found], output: Path, kind: str, planned: Outputs, reserved: str = "") -> dict[Path, str]:
    """Input → name in the output, none twice; the rest goes to `planned`."""
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
        if twin or name.casefold() == reserved:
            name = f"{picture.name}.{kind}"
        names[picture.path] = name
    taken: dict[str, Found] = {}
    # who has a plain name comes first, whatever the order
    for picture in sorted(unique, key=lambda picture: names[picture.path] != plain[picture.path]):
        name = names[picture.path]
        other = taken.setdefault(key(name), picture)
        if other is picture:
            if name != plain[picture.path]:
                planned.longer.append(f"{picture.path} → {name}")
            continue
        del names[picture.path]
        if os.path.realpath(other.path) != os.path.realpath(picture.path):
            planned.refused.append(
                f"{picture.path}: would become {name}, as {other.path}; expected different names; run them apart"
            )
    return names


def guarded(pairs: dict[Path, Path], found: list[Found], planned: Outputs) -> Outputs:
    """Without those that would be written over a picture that was given."""
    given = {os.path.realpath(picture.path): picture.path for picture in found}
    for source, target in pairs.items():
        over = source if _same_but_for_case(source, target) else given.get(os.path.realpath(target))
        if over is None:
            planned.pairs[source] = target
        else:
            what = "its own input" if over == source else f"{over}, an input"
            planned.refused.append(
                f"{source}: {target} would overwrite {what}; expected another output folder, or another --format"
            )
    return planned


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
