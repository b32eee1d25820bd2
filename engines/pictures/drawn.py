"""Two pictures that the package draws itself, seeded: one like a photo, one like a screen.

Engines are proved on them. A smooth picture hides what a wrong kernel does at edges; photos never reach the values
that text, saturated blocks and checkerboards do.
"""

from __future__ import annotations

import numpy as np
from passionsr_trt.engines.bundle.wiring import Size
from PIL import Image, ImageDraw, ImageFilter

LEAVES = 400
NOISE = 2.0  # standard deviation, of 255


def photo_like(size: Size, seed: int = 0) -> Image.Image:
    """Dead leaves (Lee, Mumford and Huang 2001): discs in front of one another, their radii r as r⁻³, shaded,
    blurred and noisy. Edges, flat places and spectrum are a photo's.
    """
    random = np.random.default_rng(seed)
    height, width = size
    image = Image.new("RGB", (width, height), tuple(random.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    smallest = max(1.0, min(size) / 64)
    for radius in smallest / np.sqrt(random.uniform(1 / 400, 1, LEAVES)):
        x, y = random.uniform(0, width), random.uniform(0, height)
        colour = np.clip(random.normal(120, 60) + random.normal(0, 25, 3), 0, 255).astype(int)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(colour.tolist()))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
    shade = np.linspace(0.6, 1.2, width, dtype=np.float32)[None, :, None]
    noisy = pixels * shade + random.normal(0, NOISE, pixels.shape).astype(np.float32)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def screen_like(size: Size, seed: int = 0) -> Image.Image:
    """Text on white and on black, lines, saturated blocks, a checkerboard, a gradient, noise: a tile each."""
    random = np.random.default_rng(seed)
    height, width = size
    image = Image.new("RGB", (width, height), "white")
    rows, columns = max(1, height // 32), max(1, width // 32)
    for row in range(rows):
        for column in range(columns):
            top, left = row * height // rows, column * width // columns
            tile = ((row + 1) * height // rows - top, (column + 1) * width // columns - left)
            image.paste(TILES[(row * columns + column + row) % len(TILES)](tile, random), (left, top))
    return image


def _text(size: Size, random: np.random.Generator, dark: bool = False) -> Image.Image:
    image = Image.new("RGB", size[::-1], "black" if dark else "white")
    pen = ImageDraw.Draw(image)
    for y in range(0, size[0], 11):
        letters = "".join(map(chr, random.integers(33, 127, 1 + size[1] // 6)))
        pen.text((1, y), letters, fill=tuple((random.integers(0, 96, 3) + 159 * dark).tolist()))
    return image


def _dark_text(size: Size, random: np.random.Generator) -> Image.Image:
    return _text(size, random, dark=True)


def _lines(size: Size, random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", size[::-1], "white")
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        ends = random.integers(0, max(size), 4).tolist()
        pen.line(ends, fill="black", width=int(random.integers(1, 3)))
    return image


def _blocks(size: Size, random: np.random.Generator) -> Image.Image:
    colours = random.integers(0, 2, (4, 4, 3)).astype(np.uint8) * 255
    return Image.fromarray(colours).resize(size[::-1], Image.Resampling.NEAREST)


def _checkerboard(size: Size, random: np.random.Generator) -> Image.Image:
    side = int(random.integers(1, 4))
    on = np.indices(size).sum(0) // side % 2 if side == 1 else (np.indices(size) // side).sum(0) % 2
    return Image.fromarray((on * 255).astype(np.uint8)).convert("RGB")


def _gradient(size: Size, random: np.random.Generator) -> Image.Image:
    corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    return Image.fromarray(corners).resize(size[::-1], Image.Resampling.BILINEAR)


def _noise(size: Size, random: np.random.Generator) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (*size, 3)).astype(np.uint8))


TILES = (_text, _blocks, _lines, _gradient, _dark_text, _checkerboard, _noise)
