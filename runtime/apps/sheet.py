"""Side-by-side pictures: LR, bicubic, FP, INT8, and the ×8 difference of the last two."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, HEADER = 6, 24
DIFFERENCE_GAIN = 8


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
