"""Which files of what is given are pictures: folders are walked, links to folders are not, the rest is counted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.formats import READABLE, SUFFIXES, advice, suffix_of

OWN = ".passionsr-"  # how names of what is unfinished, and of records, begin
# pictures by their names, whether or not they can be read
OTHER = re.compile(
    r"\.(apng|arw|avifs?|bmp|cr[23w]|dds|dng|exr|gif|hdr|heic|heif|hif|ico|j2[ck]|jfif|jp[2cefx]|jxl|jxr|nef|orf"
    r"|p[bgnp]m|pcx|pef|psd|qoi|raf|rw2|sgi|srw|svg|tga|wdp)"
)


@dataclass(frozen=True)
class Found:
    """A picture. name: its path in the folder that was given, with `/`, or the name of the file that was.

    walked: found in a folder, not named itself.
    """

    path: Path
    name: str
    walked: bool


@dataclass
class LeftOut:
    """What looks like a picture and is none that is taken, by kind; `folders` that cannot be read, and why."""

    kinds: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)

    def line(self) -> str:
        """`3 files left out: 2 .heic (pip install pi-heif), 1 broken link`, or nothing."""
        told = []
        for kind, count in sorted(self.kinds.items()):
            how = f" ({needed})" if (needed := advice(Path(f"a{kind}"))) else ""
            told.append(f"{count} {kind}{how}" if kind.startswith(".") else f"{count} {KINDS[kind][count > 1]}")
        total = sum(self.kinds.values())
        return f"{total} file{'s' if total > 1 else ''} left out: {', '.join(told)}" if told else ""


KINDS = {
    "broken": ("broken link", "broken links"),
    "hidden": ("whose name begins with a dot", "whose names begin with a dot"),
    "link": ("link to a folder", "links to folders"),
    "made": ("that an earlier run made", "that earlier runs made"),
    "special": ("that is no file", "that are no files"),
}


def find_pictures(inputs: list[Path], output: Path | None = None) -> tuple[list[Found], LeftOut]:
    """Files as given (a missing one fails when it is read); folders give theirs and their sub-folders', by name.

    `output`, where it lies in one of the folders, is not walked. UserError for a folder that holds no picture.
    """
    found: list[Found] = []
    left = LeftOut()
    for item in inputs:
        if not is_folder(item):
            found.append(Found(item, item.name, walked=False))
            continue
        before = len(found)
        for folder, entries in walk(str(item), left, "" if output is None else str(output)):
            found += [Found(Path(entry.path), f"{folder}{entry.name}", walked=True) for entry in entries]
        if len(found) == before:
            raise no_picture(str(item), left)
    return found, left


def is_folder(path: Path) -> bool:
    """False for what cannot be asked too: a name that is too long, a folder above that is closed."""
    try:
        return path.is_dir()
    except OSError:
        return False


def no_picture(folder: str, left: LeftOut) -> UserError:
    """Of a folder that holds none that can be read."""
    reasons = [left.line(), *left.folders[:1]]
    return UserError(
        f"{folder}: holds no image", f"expected {', '.join(READABLE)}", "; ".join(filter(None, reasons))
    )


def list_images(inputs: list[Path]) -> list[Path]:
    """The paths of `find_pictures`."""
    return [found.path for found in find_pictures(inputs)[0]]


def walk(root: str, left: LeftOut, skipped: str = "") -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """(folder, its pictures) of `root` and all below it, by name; folder: `""`, `a/`, `a/b/`.

    Links to folders and what begins with a dot are passed over, so is the folder `skipped`. UserError where `root`
    itself cannot be read.
    """
    skipped = os.path.realpath(skipped) if skipped else ""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(f"{root}/{folder}") as entries:
                here = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise UserError(f"{root}: cannot be read ({error.strerror})", "expected a folder") from None
            left.folders.append(f"{root}/{folder}: cannot be read ({error.strerror})")
            continue
        pictures, below = [], []
        for entry in here:
            kind = _kind(entry)
            if kind in ("folder", "link") and skipped and os.path.realpath(entry.path) == skipped:
                continue
            if kind == "folder":
                below.append(f"{folder}{entry.name}/")
            elif kind == "picture":
                pictures.append(entry)
            elif kind:
                left.kinds[kind] += 1
        yield folder, pictures
        waiting += reversed(below)


def _kind(entry: os.DirEntry[str]) -> str:
    """`folder`, or what `kind_of` says, or how it is none."""
    kind = kind_of(entry.name)
    if entry.is_dir(follow_symlinks=False):
        return "" if entry.name.startswith(".") else "folder"
    if entry.name.startswith("."):
        return kind
    try:
        if entry.is_dir():
            return "link"
        if not kind or entry.is_file():
            return kind
    except OSError:  # links in a circle
        return "broken" if kind else ""
    return "broken" if entry.is_symlink() and not Path(entry.path).exists() else "special"


def kind_of(name: str) -> str:
    """Of a file by its name: `picture`, a kind of what is left out, or nothing for what is of no interest."""
    suffix = suffix_of(name)
    if suffix not in SUFFIXES and not OTHER.fullmatch(suffix):
        return ""
    if name.startswith("."):
        return "" if name.startswith(OWN) else "hidden"
    return "picture" if suffix in SUFFIXES else suffix
