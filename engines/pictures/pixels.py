"""What an image of any mode of Pillow's shows: RGB, alpha beside it, grey or not, 16 bits where there are some.

Depth: Pillow holds more than 8 bits for one channel alone. Of more it gives the high byte of each, so a picture of
several such channels is decoded twice, the second time as if its bytes stood the other way round, which gives the
low ones.

Colours under transparency: nobody sees them, and a network would draw them into what is seen. An editor may leave
anything there. So a hidden pixel gets the colour of what is visible around it, from near if there is something
near (push-pull over a pyramid: means of 2×2 pixels weighted by alpha, down to one and back).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.common.errors import UserError
from PIL import Image

SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if struct.pack("=H", 1)[0] else "16L"}
STRAIGHT = ("RGB", "RGBA", "RGBX")  # not RGBa: Pillow divides by alpha as it unpacks
LOOKED_AT = 1 << 16  # bytes that are looked at for the depth of what Pillow does not tell


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
        bits = image.tag_v2.get(258, 8)  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) and bits else bits if isinstance(bits, int) else 8
    if image.format == "PPM":
        numbers = [number for number in image.tile[0][3] if isinstance(number, int)]  # type: ignore[attr-defined]
        return max([255, *numbers]).bit_length()
    if image.format in ("JPEG2000", "AVIF", "HEIF"):
        with path.open("rb") as file:
            start = file.read(LOOKED_AT)
        for pattern in (rb"ihdr.{10}(.)", rb"\xff\x4f\xff\x51.{38}(.)", rb"pixi.{5}(.)"):
            if match := re.search(pattern, start, re.DOTALL):
                bits = (match[1][0] & 0x7F) + (0 if pattern.startswith(b"pixi") else 1)
                return bits if bits <= 38 else 8  # JPEG 2000's most; what is above says that channels differ
    return 8


def fill_hidden(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`colours` [H, W, 3] with those changed where `alpha` [H, W] is 0, both unsigned; black where all of it is.

    What comes depends on visible colours and alpha alone; the same array where nothing is hidden.
    """
    hidden = alpha == 0
    if not hidden.any():
        return colours
    weights = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    around = _smooth(*_halved(colours, weights))
    result = colours.copy()
    for channel in range(3):  # one by one: a float of every pixel is large
        result[..., channel][hidden] = np.rint(_doubled(around[..., channel], hidden.shape)[hidden])
    return result


def _smooth(colours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Colours [h, w, 3] float32 with what has little weight taken from further away."""
    if weights.size == 1:
        return colours
    around = _doubled(_smooth(*_halved(colours, weights)), weights.shape)
    around += (colours - around) * weights[..., None]
    return around


def _halved(colours: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means of 2×2 pixels and their weights, 1 at most; what has no weight is 0."""
    height, width = (-(-side // 2) for side in weights.shape)
    total, weight = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = weights[row::2, column::2]
        total[: part.shape[0], : part.shape[1]] += colours[row::2, column::2] * part[..., None]
        weight[: part.shape[0], : part.shape[1]] += part
    np.divide(total, weight[..., None], out=total, where=weight[..., None] > 0)
    return total, np.minimum(weight, 1, out=weight)


def _doubled(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bilinear, [h, w, …] to twice that, cut to `size`."""
    for axis, side in enumerate(size):
        moved = np.moveaxis(values, axis, 0)
        before, after = np.concatenate([moved[:1], moved[:-1]]), np.concatenate([moved[1:], moved[-1:]])
        larger = np.empty((2 * len(moved), *moved.shape[1:]), np.float32)
        larger[0::2] = 0.75 * moved + 0.25 * before
        larger[1::2] = 0.75 * moved + 0.25 * after
        values = np.moveaxis(larger[:side], 0, axis)
    return values


# palettes, colours multiplied by alpha, padding
PLAIN = {"P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
CONVERTED = ("CMYK", "LAB", "YCbCr", "HSV")
GAMMA = 1 / 2.2  # of a file whose values are sRGB's
GAMMAS = (0.1, 10.0)  # what a gAMA chunk may sensibly say


@dataclass
class Pixels:
    """rgb: 8-bit RGB image; alpha: 8-bit L image or None; deep: both in 16 bits, uint16 [H, W, 3 or 4], or None.

    Where alpha is 0, colours are those around, whatever the file held.
    """

    rgb: Image.Image
    alpha: Image.Image | None
    grey: bool
    deep: np.ndarray | None = None


def eight_bits(image: Image.Image, gamma: float | None) -> Pixels:
    """From an 8-bit image of any mode. gamma: as of `significant_gamma`."""
    if "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("L", "1") else "RGBA")
    image = image.convert(PLAIN.get(image.mode, image.mode))
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    grey = image.mode in ("L", "LA", "1")
    rgb = image.convert("RGB")
    if gamma is not None:
        rgb = Image.fromarray(to_srgb(gamma, 255).astype(np.uint8)[np.asarray(rgb)])
    if alpha is not None:
        rgb = Image.fromarray(fill_hidden(np.asarray(rgb), np.asarray(alpha)))
    return Pixels(rgb, alpha, grey)


def sixteen_bits(values: np.ndarray, key: Any, gamma: float | None) -> Pixels:
    """From uint16 [H, W, 1 to 4]. key: the values that stand for nothing (PNG's tRNS), or None."""
    channels = values.shape[2]
    grey = channels < 3
    colours = np.repeat(values[..., :1], 3, axis=2) if grey else values[..., :3]
    alpha = values[..., -1] if channels in (2, 4) else None
    if alpha is None and key is not None and np.size(key) == channels:
        alpha = np.where((values == np.asarray(key)).all(axis=2), 0, 65535).astype(np.uint16)
    if gamma is not None:
        colours = to_srgb(gamma, 65535).astype(np.uint16)[colours]
    if alpha is not None:
        colours = fill_hidden(colours, alpha)
    deep = colours if alpha is None else np.concatenate([colours, alpha[..., None]], axis=2)
    small = reduced(deep)
    shown = None if alpha is None else Image.fromarray(small[..., 3])
    return Pixels(Image.fromarray(np.ascontiguousarray(small[..., :3])), shown, grey, deep)


def reduced(deep: np.ndarray) -> np.ndarray:
    """16 bits as 8, to nearest; what is not wholly hidden stays so."""
    small = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if deep.shape[2] == 4:
        small[..., 3] = np.maximum(small[..., 3], deep[..., 3] > 0)
    return small


def significant_gamma(info: dict[str | tuple[int, int], object]) -> float | None:
    """The gamma of a PNG whose values are not sRGB's, so that they have to be converted; else None.

    A cICP chunk, a profile and an sRGB chunk overrule it; within 5 % of 1/2.2 it is sRGB's; beyond GAMMAS it is a
    mistake.
    """
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or is_srgb(info) or info.get("icc_profile") or "cicp" in info:
        return None
    return gamma if GAMMAS[0] <= gamma <= GAMMAS[1] and abs(gamma / GAMMA - 1) > 0.05 else None


def is_srgb(info: dict[str | tuple[int, int], object]) -> bool:
    """By a PNG's sRGB chunk, which holds an intent from 0 to 3; one that holds another is void."""
    intent = info.get("srgb")
    return isinstance(intent, int) and intent <= 3


def to_srgb(gamma: float, most: int) -> np.ndarray:
    """Table [most + 1] from values of a file of such a gamma (value = light ** gamma) to sRGB's."""
    light = (np.arange(most + 1) / most) ** (1 / gamma)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(curve * most)
