"""More than 8 bits a channel: Pillow holds them for one channel alone. Of more it gives the high byte of each.

So a picture of several such channels is decoded twice, the second time as if its bytes stood the other way round,
which gives the low ones.
"""

from __future__ import annotations

import re
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from passionsr_trt.engines.common.errors import UserError
from PIL import Image

SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if struct.pack("=H", 1)[0] else "16L"}
STRAIGHT = ("RGB", "RGBA", "RGBX")  # not RGBa: Pillow divides by alpha as it unpacks
HEADER = 1 << 16  # bytes that are looked at for the depth of what Pillow does not tell


def rawmode(image: Image.Image) -> str:
    """How an image's channels lie in its file, as Pillow calls it; of an image that is not loaded yet."""
    tiles = getattr(image, "tile", None)
    first = tiles[0][3] if tiles else ""
    first = first[0] if isinstance(first, tuple) and first else first
    return first if isinstance(first, str) else ""


def low_bytes(image: Image.Image, again: Image.Image, path: Path) -> Image.Image | None:
    """What 8 bits of `image` leave out, loaded, in the same mode; of grey and alpha both bytes of both as RGBA.

    again: the same file, opened anew and not loaded. None where there is nothing, or no way to it.
    """
    kind, _, order = rawmode(image).partition(";")
    if order not in SWAPPED:
        return None
    if kind in STRAIGHT:
        tiles = []
        for tile in again.tile:  # type: ignore[attr-defined]
            codec, extents, offset, arguments = tile
            first = f"{kind};{SWAPPED[order]}"
            swapped = (first, *arguments[1:]) if isinstance(arguments, tuple) else first
            made = getattr(type(tile), "_make", tuple)  # a named tuple of Pillow's own, from 11 on
            tiles.append(made((codec, extents, offset, swapped)))
        again.tile = tiles  # type: ignore[attr-defined]
        again.load()
        return again
    if kind == "LA" and image.format == "PNG":
        return _as_four(path.read_bytes())
    return None


def _as_four(data: bytes) -> Image.Image | None:
    """A PNG of grey and alpha of 16 bits as one of four channels of 8: the same bytes under another header."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        return None
    header = data[12:24] + b"\x08\x06" + data[26:29]
    other = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    image = Image.open(BytesIO(other), formats=["PNG"])
    image.load()
    return image


def joined(high: Image.Image, low: Image.Image, raw: str) -> np.ndarray | None:
    """uint16 [H, W, C] of an image, its `low_bytes` and its `rawmode`; None where they do not belong together."""
    first, second = np.asarray(high), np.asarray(low)
    if raw.startswith("LA"):
        both = second.astype(np.uint16)
        values = both[..., ::2] << 8 | both[..., 1::2]
        return values if np.array_equal(values[..., 0] >> 8, first[..., 0]) else None
    return first.astype(np.uint16) << 8 | second if first.shape == second.shape else None


def whole_numbers(image: Image.Image, path: Path) -> np.ndarray:
    """A grey image of whole numbers to 65535 or floats from 0 to 1 (modes I, I;16, F) as uint16 [H, W, 1].

    UserError where the range may mean anything.
    """
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        kind, low, high = "floats" if image.mode == "F" else "whole numbers", values.min(), values.max()
        raise UserError(
            f"{path}: {kind} from {low:g} to {high:g}", f"expected 0 to {top:g}", "convert it to 8 or 16 bits"
        )
    return np.rint(values / top * 65535).astype(np.uint16)[..., None]


def stored_bits(image: Image.Image, path: Path) -> int:
    """Bits a channel of the file, 8 where it does not say; of an image that is not loaded yet."""
    if ";16" in rawmode(image):
        return 16
    if image.format == "TIFF":
        found = image.tag_v2.get(258, 8)  # type: ignore[attr-defined]
        return max(found) if isinstance(found, tuple) and found else found if isinstance(found, int) else 8
    if image.format == "PPM":
        numbers = [number for number in image.tile[0][3] if isinstance(number, int)]  # type: ignore[attr-defined]
        return max([255, *numbers]).bit_length()
    if image.format in ("JPEG2000", "AVIF", "HEIF"):
        with path.open("rb") as file:
            start = file.read(HEADER)
        for pattern in (rb"ihdr.{10}(.)", rb"\xff\x4f\xff\x51.{38}(.)", rb"pixi.{5}(.)"):
            if match := re.search(pattern, start, re.DOTALL):
                bits = (match[1][0] & 0x7F) + (0 if pattern.startswith(b"pixi") else 1)
                return bits if bits <= 38 else 8  # JPEG 2000's most; what is above says that channels differ
    return 8
