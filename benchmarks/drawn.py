"""Drawn pictures: what photographs have not: flat areas, single-pixel lines, text, noise. Seeded, 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

LINES = ("The quick brown fox", "jumps over 0123456789", "the lazy dog: {[(<>)]}", "AVWMNXKZ ilj|!.,;'")


def drawn_pictures(side: int, seed: int = 0) -> dict[str, Image.Image]:
    """Pictures of side × side pixels by what is drawn."""
    random = np.random.default_rng(seed)
    return {
        "text": _text(side),
        "line art": _line_art(side, random),
        "blocks": _blocks(side, random),
        "checkerboard": _checkerboard(side),
        "noise": Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)),
        "pixel art": _pixel_art(side, random),
    }


def _text(side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    for index in range(-(-side // 11)):
        pen.text((1, 11 * index), LINES[index % len(LINES)], (20 * (index % 5), 0, 0))
    return image


def _line_art(side: int, random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (side, side), (250, 250, 245))
    pen = ImageDraw.Draw(image)
    for index in range(14):
        left, top, right, bottom = (float(x) for x in random.integers(0, side, 4))
        ink = (0, 0, 0) if index % 3 else (200, 30, 60)
        pen.line((left, top, right, bottom), ink, 1 + index % 2)
        pen.ellipse((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=ink)
    return image


def _blocks(side: int, random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (side, side), "black")
    pen = ImageDraw.Draw(image)
    for _ in range(24):
        left, top = (int(x) for x in random.integers(0, side, 2))
        width, height = (int(x) for x in random.integers(2, side // 3, 2))
        red, green, blue = (int(x) for x in random.choice((0, 64, 128, 192, 255), 3))
        pen.rectangle((left, top, left + width, top + height), (red, green, blue))
    return image


def _checkerboard(side: int) -> Image.Image:
    """Squares of 1, 2, 4 and 8 pixels, a quarter of the picture each."""
    row, column = np.mgrid[:side, :side]
    half = side // 2
    size = np.where(row < half, np.where(column < half, 1, 2), np.where(column < half, 4, 8))
    white = (row // size + column // size) % 2
    return Image.fromarray(np.repeat((white * 255).astype(np.uint8)[..., None], 3, axis=2))


def _pixel_art(side: int, random: np.random.Generator) -> Image.Image:
    """Mirrored figures of 8 × 8 squares in 4 colours, each square 1 to 3 pixels."""
    image = Image.new("RGB", (side, side), (40, 44, 60))
    top = 0
    for index in range(side):
        size = 1 + index % 3
        if top + 8 * size > side:
            break
        for left in range(0, side - 8 * size + 1, 9 * size):
            palette = random.integers(0, 256, (4, 3), np.uint8)
            half = random.integers(0, 4, (8, 4))
            figure = palette[np.concatenate([half, half[:, ::-1]], axis=1)]
            image.paste(Image.fromarray(figure.repeat(size, 0).repeat(size, 1)), (left, top))
        top += 9 * size
    return image
