"""Which formats are read: an explicit list of Pillow's decoders, since every further one is attack surface.

Never those that start programs (EPS: Ghostscript) or that are no still pictures (PDF, MPEG). HEIC and JPEG XL are
read where a package brings a decoder.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from contextlib import suppress
from pathlib import Path

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
PACKAGES = {
    "HEIF": (("pi_heif", "register_heif_opener"), ("pillow_heif", "register_heif_opener")),
    "JXL": (("pillow_jxl", ""),),
}
ADVICE = {
    ".heic": "pip install pi-heif",
    ".heif": "pip install pi-heif",
    ".hif": "pip install pi-heif",
    ".jxl": "pip install pillow-jxl-plugin",
    ".avif": "pip install 'Pillow>=11.3'",
    ".webp": "pip install Pillow with WebP",
    ".jp2": "pip install Pillow with JPEG 2000",
}
NAMELESS = ("TGA",)  # no mark at its start tells it: only its suffix does


def _readable() -> dict[str, tuple[str, ...]]:
    """Format → suffixes, of all that can be read here."""
    formats = [name for name, (plugin, feature) in DECODERS.items() if _has(plugin, feature)]
    for name, packages in PACKAGES.items():
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
        found = importlib.import_module(module)
        if function:
            getattr(found, function)()
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
