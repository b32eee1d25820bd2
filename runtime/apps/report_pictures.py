"""Pictures of a report: versions as WebP, the difference ×8, where two differ most, and versions side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from passionsr_trt.runtime.core.metrics import psnr
from PIL import Image, ImageDraw, ImageFont

GAP, HEADER = 6, 24
DIFFERENCE_GAIN = 8
CROP = 128  # pixels a side
STEP = 32  # pixels between the places where a crop is looked for
LARGEST_VIEW = 1024  # pixels a side; of a larger picture the part around its worst crop is shown
QUALITY = 92  # of whole pictures; crops are lossless
Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Embedded:
    """A picture inside a page: its name there, its WebP as a `data:` address, its sides in pixels."""

    label: str
    address: str
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """One picture of a report. panels: its versions, the float one first and the tested one second.

    crop: the same versions where those two differ most, and their difference; crop_psnr: of that square, in dB.
    shown: what part of the picture the panels are, None for all of it.
    """

    name: str
    figures: Mapping[str, Mapping[str, float]]
    panels: tuple[Embedded, ...]
    difference: Embedded
    crop: tuple[Embedded, ...]
    crop_box: Box
    crop_psnr: float
    shown: Box | None


def view(name: str, figures: Mapping[str, Any], versions: Mapping[str, Image.Image]) -> View:
    """Of equally sized versions by label, the float one first and the tested one second."""
    reference, tested = list(versions.values())[:2]
    worst = worst_crop(reference, tested)
    shown = window_around(worst, reference.size)
    changes = difference(reference, tested)
    name_of_change = f"difference ×{DIFFERENCE_GAIN}"
    crops = {**versions, name_of_change: changes}
    return View(
        name,
        figures,
        tuple(embed(label, image.crop(shown)) for label, image in versions.items()),
        embed(name_of_change, changes.crop(shown)),
        tuple(embed(label, image.crop(worst), lossless=True) for label, image in crops.items()),
        worst,
        psnr(reference.crop(worst), tested.crop(worst)),
        None if shown == (0, 0, *reference.size) else shown,
    )


def worst_crop(first: Image.Image, second: Image.Image) -> Box:
    """The square of CROP pixels, or all of a smaller picture, with the largest squared difference."""
    a, b = (np.asarray(image, np.float64) for image in (first, second))
    error = np.square(a - b).sum(2)
    height, width = error.shape
    total = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))  # [y, x]: of all above and left of it

    def inside(top: int, left: int) -> float:
        bottom, right = min(top + CROP, height), min(left + CROP, width)
        return float(total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left])

    tops, lefts = ({*range(0, max(side - CROP, 0), STEP), max(side - CROP, 0)} for side in (height, width))
    top, left = max(((top, left) for top in sorted(tops) for left in sorted(lefts)), key=lambda at: inside(*at))
    return left, top, min(left + CROP, width), min(top + CROP, height)


def window_around(box: Box, size: tuple[int, int]) -> Box:
    """At most LARGEST_VIEW pixels a side of a picture of `size` (width, height), with `box` near its middle."""
    left, top = (
        min(max((box[axis] + box[axis + 2] - LARGEST_VIEW) // 2, 0), max(size[axis] - LARGEST_VIEW, 0))
        for axis in (0, 1)
    )
    return left, top, min(left + LARGEST_VIEW, size[0]), min(top + LARGEST_VIEW, size[1])


def embed(label: str, image: Image.Image, lossless: bool = False) -> Embedded:
    """8-bit RGB as WebP."""
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=lossless, quality=QUALITY)
    address = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return Embedded(label, address, image.width, image.height)


def difference(first: Image.Image, second: Image.Image) -> Image.Image:
    """128 + 8·(second − first), clamped: grey where equal."""
    a, b = (np.asarray(image, np.float32) for image in (first, second))
    return Image.fromarray(np.clip(128 + DIFFERENCE_GAIN * (b - a), 0, 255).astype(np.uint8))


def comparison_sheet(panels: list[tuple[str, Image.Image]], caption: str, crop: int = 0) -> Image.Image:
    """Panels in a row with their names; `crop` keeps the central square of that many pixels, enlarged ×2."""
    panels = [*panels, (f"difference x{DIFFERENCE_GAIN}", difference(panels[-2][1], panels[-1][1]))]
    return labelled_row([(name, centre(image, crop) if crop else image) for name, image in panels], caption)


def labelled_row(panels: list[tuple[str, Image.Image]], caption: str) -> Image.Image:
    """Panels of one size side by side, each under its name, all under a caption."""
    width, height = panels[0][1].size
    sheet = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + 2 * HEADER), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    draw.text((4, 2), caption, "black", font)
    for index, (name, image) in enumerate(panels):
        left = index * (width + GAP)
        draw.text((left + 4, HEADER), name, "black", font)
        sheet.paste(image, (left, 2 * HEADER))
    return sheet


def centre(image: Image.Image, size: int) -> Image.Image:
    """The central square, enlarged twice without smoothing."""
    left, top = (image.width - size) // 2, (image.height - size) // 2
    box = (left, top, left + size, top + size)
    return image.crop(box).resize((size * 2, size * 2), Image.Resampling.NEAREST)


def overview(strips: list[Image.Image], limit: int = 6) -> Image.Image:
    """The first strips below one another."""
    strips = strips[:limit]
    sheet = Image.new(
        "RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white"
    )
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet
