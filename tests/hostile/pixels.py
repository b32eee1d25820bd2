"""Pictures of unusual pixels: float, deep, transparent, of other colour spaces. What is read has to be right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from tests.hostile.bench import pattern
from tests.hostile.encoded import Shown, png

GREY = np.asarray(pattern().convert("L"))


def floats(low: float, high: float, shown: bool, path: Path, spoil: float | None = None) -> Shown:
    """A float32 TIFF of the grey pattern, its 0 at `low` and its 255 at `high`."""
    values = (GREY.astype(np.float32) / 255 * (high - low) + low).astype(np.float32)
    if spoil is not None:
        values[3, 5] = spoil
    Image.fromarray(values).save(path)
    return Image.fromarray(GREY if high > 1e-9 else GREY * 0) if shown and spoil is None else None


def array(values: Any, shown: bool, path: Path) -> Shown:
    Image.fromarray(values).save(path)
    return Image.fromarray(GREY) if shown else None


def deep_colours(path: Path) -> Shown:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    path.write_bytes(png(np.asarray(pattern()).astype(np.uint16) * 257))
    return pattern()


def plain(mode: str, path: Path, shown: str = "RGB") -> Shown:
    image = pattern().convert(mode)
    image.save(path)
    return image.convert(shown)


def transparent(mode: str, path: Path) -> Shown:
    """A colour that stands for nothing (PNG's tRNS); half of the pictures wear it."""
    pixels = np.array(pattern().convert("L" if mode == "L" else "RGB"))
    pixels[:, :12] = 200
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.quantize(32)
        shown = image.convert("RGB")
        key: Any = image.getpixel((0, 0))
    else:
        shown, key = image, 200 if mode == "L" else (200, 200, 200)
    image.save(path, transparency=key)
    result = shown.convert("LA" if mode == "L" else "RGBA")
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :12] = 0
    hidden = np.asarray(image) == key if mode == "P" else np.all(np.atleast_3d(pixels) == 200, axis=-1)
    alpha[hidden] = 0
    result.putalpha(Image.fromarray(alpha))
    return result


def soft(mode: str = "RGBA", seen: bool = True) -> Image.Image:
    """Clear on the left, or everywhere."""
    image = pattern().convert("L" if mode == "LA" else "RGB")
    ramp = np.linspace(0, 255 * seen, image.width).round().astype(np.uint8)
    image.putalpha(Image.fromarray(np.repeat(ramp[None], image.height, axis=0)))
    return image


def alpha(mode: str, path: Path, seen: bool = True) -> Shown:
    image = soft(mode, seen)
    image.save(path)
    return image


def lab(path: Path) -> Shown:
    """A LAB TIFF as Photoshop writes it, with a LAB profile."""
    space = ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), space, "RGB", "LAB")
    image = ImageCms.applyTransform(pattern(), to_lab)
    assert image is not None
    image.save(path, icc_profile=ImageCms.ImageCmsProfile(space).tobytes())
    return pattern()


def tiff(mode: str, tags: dict[int, Any], path: Path) -> Shown:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    pattern().convert(mode).save(path, tiffinfo=info)
    return pattern().convert(mode)


def one_bit(path: Path) -> Shown:
    image = pattern().convert("1")
    image.save(path)
    return image.convert("L")


Entry = tuple[str, Callable[[Path], Shown], bool | None]
MODES: dict[str, Entry] = {
    "float 0–1": ("f.tif", partial(floats, 0, 1, True), True),
    "float 0–255": ("f.tif", partial(floats, 0, 255, True), None),
    "float −1–1": ("f.tif", partial(floats, -1, 1, False), None),
    "float 0–65535": ("f.tif", partial(floats, 0, 65535, True), None),
    "float HDR": ("f.tif", partial(floats, 0, 40, False), None),
    "float tiny": ("f.tif", partial(floats, 0, 1e-30, True), None),
    "float huge": ("f.tif", partial(floats, 0, 3e38, False), None),
    "float negative": ("f.tif", partial(floats, -255, -1, False), None),
    "float NaN": ("f.tif", partial(floats, 0, 1, True, spoil=np.nan), False),
    "float inf": ("f.tif", partial(floats, 0, 1, True, spoil=np.inf), False),
    "float −inf": ("f.tif", partial(floats, 0, 1, True, spoil=-np.inf), False),
    "16-bit grey PNG": ("i.png", partial(array, GREY.astype(np.uint16) * 257, True), True),
    "16-bit grey TIFF": ("i.tif", partial(array, GREY.astype(np.uint16) * 257, True), True),
    "16-bit big-endian TIFF": ("i.tif", partial(array, (GREY.astype(np.uint16) * 257).astype(">u2"), True), True),
    "16-bit colour PNG": ("i.png", deep_colours, True),
    "32-bit integer TIFF of 16 bits": ("i.tif", partial(array, GREY.astype(np.int32) * 257, True), None),
    "32-bit integer TIFF of 8 bits": ("i.tif", partial(array, GREY.astype(np.int32), False), None),
    "32-bit integer TIFF whole": ("i.tif", partial(array, GREY.astype(np.int32) << 22, False), None),
    "32-bit integer TIFF negative": ("i.tif", partial(array, -GREY.astype(np.int32), False), None),
    "1 bit": ("b.png", one_bit, True),
    "1 bit TIFF": ("b.tif", one_bit, True),
    "1 bit BMP": ("b.bmp", one_bit, True),
    "palette": ("p.png", partial(plain, "P"), True),
    "palette BMP": ("p.bmp", partial(plain, "P"), True),
    "grey": ("l.png", partial(plain, "L", shown="L"), True),
    "grey JPEG": ("l.tif", partial(plain, "L", shown="L"), True),
    "CMYK TIFF": ("c.tif", partial(plain, "CMYK"), True),
    "YCbCr TIFF": ("y.tif", partial(plain, "YCbCr"), None),
    "LA": ("a.png", partial(alpha, "LA"), True),
    "RGBA": ("a.png", partial(alpha, "RGBA"), True),
    "RGBA TIFF": ("a.tif", partial(alpha, "RGBA"), True),
    "LA TIFF": ("a.tif", partial(alpha, "LA"), True),
    "tRNS grey": ("t.png", partial(transparent, "L"), True),
    "tRNS colour": ("t.png", partial(transparent, "RGB"), True),
    "tRNS palette": ("t.png", partial(transparent, "P"), True),
    "LAB with profile": ("lab.tif", lab, None),
    "TIFF of text tags": ("t.tif", partial(tiff, "RGB", {270: "x" * 70000, 305: "\x1b[31m"}), True),
    "TIFF orientation 1": ("t.tif", partial(tiff, "RGB", {274: 1}), True),
    "TIFF white is zero": ("t.tif", partial(tiff, "L", {262: 0}), None),
}
