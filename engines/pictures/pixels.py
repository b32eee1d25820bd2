"""What an image of any mode of Pillow's shows: RGB, alpha beside it, grey or not, 16 bits where there are some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from passionsr_trt.engines.pictures.transparency import fill_hidden
from PIL import Image

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
