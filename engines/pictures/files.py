"""Which files are pictures, by their names and marks, and which of a folder's are.

Formats are an explicit list of Pillow's decoders, since every further one is attack surface: never those that
start programs (EPS: Ghostscript) or that are no still pictures (PDF, MPEG). HEIC and JPEG XL are read where a
package brings a decoder. Folders are walked, links to folders are not; what is left out is counted.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import install
from PIL import Image, features

# format: (Pillow's plugin, the feature that it takes, if any)
DECODERS = {
    "PNG": ("Png", ""),
    "JPEG": ("Jpeg", ""),
    "MPO": ("Mpo", ""),
    "WEBP": ("WebP", "webp"),
    "BMP": ("Bmp", ""),
    "TIFF": ("Tiff", ""),
    "GIF": ("Gif", ""),
    "AVIF": ("Avif", "avif"),
    "JPEG2000": ("Jpeg2K", "jpg_2000"),
    "TGA": ("Tga", ""),
    "PPM": ("Ppm", ""),
}
# format: packages that bring a decoder, the first that is there is taken: (module, its function that registers it)
DECODER_PACKAGES = {
    "HEIF": (("pi_heif", "register_heif_opener"), ("pillow_heif", "register_heif_opener")),
    "JXL": (("pillow_jxl", ""),),
}
ADVICE = {
    ".heic": install("heic"),
    ".heif": install("heic"),
    ".hif": install("heic"),
    ".jxl": "pip install pillow-jxl-plugin",
    ".avif": 'pip install "Pillow>=11.3"',
    ".webp": "a Pillow with WebP, as pip's wheels are",
    ".jp2": "a Pillow with JPEG 2000, as pip's wheels are",
}
NAMELESS = ("TGA",)  # no mark at its start tells it: only its suffix does


def _readable() -> dict[str, tuple[str, ...]]:
    """Format → suffixes, of all that can be read here."""
    formats = [name for name, (plugin, feature) in DECODERS.items() if _has(plugin, feature)]
    for name, packages in DECODER_PACKAGES.items():
        if any(_registered(module, function) for module, function in packages):
            formats.append(name)
    suffixes: dict[str, tuple[str, ...]] = {name: () for name in formats}
    for suffix, name in Image.EXTENSION.items():
        if name in suffixes:
            suffixes[name] += (suffix,)
    return suffixes


def _has(plugin: str, feature: str) -> bool:
    """Pillow knows fewer formats by itself, the older it is."""
    try:
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    except ImportError:
        return False
    return not feature or bool(features.check(feature))


def _registered(module: str, function: str) -> bool:
    """Is a package there, and its decoder in Pillow's list now?"""
    if importlib.util.find_spec(module) is None:
        return False
    try:
        decoder = importlib.import_module(module)
        if function:
            getattr(decoder, function)()
    except Exception:  # one that does not fit this Pillow costs nothing but its format
        return False
    return True


READABLE = _readable()
SUFFIXES = tuple(suffix for suffixes in READABLE.values() for suffix in suffixes)


logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what it has to say stands on stderr, of no file


def suffix_of(name: str) -> str:
    """`.png` of `A.PNG`, and of `a.png ` too: a name may end in what is hard to see."""
    return Path(name.rstrip(" .")).suffix.lower()


def formats_for(path: Path) -> list[str]:
    """What a file may be, whatever its name says; what has no mark of its own only by its name."""
    suffix = suffix_of(path.name)
    known = {name: suffixes for name, suffixes in READABLE.items() if name in Image.OPEN}  # MPO opens as a JPEG
    return [name for name, suffixes in known.items() if name not in NAMELESS or suffix in suffixes]


def advice(path: Path) -> str:
    """What would read a picture of such a name; nothing where it can be read, or is no picture's name."""
    suffix = suffix_of(path.name)
    return "" if suffix in SUFFIXES else ADVICE.get(suffix, "")


def marked(path: Path) -> str:
    """The format whose mark a file begins with, of those that are read; nothing where there is none."""
    with suppress(OSError), path.open("rb") as file:
        start = file.read(16)
        for name in formats_for(path):
            accept = Image.OPEN[name][1]
            if accept is not None and accept(start) is True:
                return name
    return ""


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

    @property
    def root(self) -> Path:
        """The folder that was given, or that of the file that was."""
        return self.path.parents[self.name.count("/")]


@dataclass
class LeftOut:
    """What looks like a picture and is none that is taken, by kind; `folders` that cannot be read, and why."""

    kinds: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)

    def line(self) -> str:
        """`3 files left out: 2 .heic (pip install …), 1 broken link`, or nothing."""
        told = []
        for kind, count in sorted(self.kinds.items()):
            how = f" ({needed})" if (needed := advice(Path(f"a{kind}"))) else ""
            told.append(f"{count} {kind}{how}" if kind.startswith(".") else f"{count} {KINDS[kind][count > 1]}")
        total = sum(self.kinds.values())
        return f"{total} file{'s' if total > 1 else ''} left out: {', '.join(told)}" if told else ""


KINDS = {
    "enlarged": ("named as an enlarged one is", "named as enlarged ones are"),
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
    pictures: list[Found] = []
    left = LeftOut()
    for item in inputs:
        if not is_folder(item):
            pictures.append(Found(item, item.name, walked=False))
            continue
        before = len(pictures)
        for folder, entries in walk(str(item), left, "" if output is None else str(output)):
            pictures += [Found(Path(entry.path), f"{folder}{entry.name}", walked=True) for entry in entries]
        if len(pictures) == before:
            raise no_picture(str(item), left)
    return pictures, left


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
    return [picture.path for picture in find_pictures(inputs)[0]]


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
