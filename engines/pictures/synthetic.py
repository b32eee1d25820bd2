"""Pictures that calibration draws itself, so that ranges hold for more than photos: seeded, of no files.

Kinds take turns: text, line art, flat areas, saturated blocks, checkerboards and gratings up to Nyquist, smooth
transitions, noise, stars on black, pixel art; and of the user's own pictures: damaged by JPEG, over-sharpened,
framed in black and white. What quantization is judged on is drawn by other code (drawn_set.py).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

LETTERS = "etaoinshrdlucmfwygpbvkxqjzETAOINSHR0123456789.,:;-+=/()[]{}<>#@%&*!?|_"


def synthetic_pictures(count: int, side: int, seed: int, own: Sequence[Image.Image]) -> list[Image.Image]:
    """So many pictures of side × side pixels, RGB of 8 bits, a kind after the other.

    own: the user's pictures, from which some kinds are made; at least one.
    """
    made = []
    for index in range(count):
        random = np.random.default_rng((seed, 1, index))
        kind = KINDS[index % len(KINDS)]
        made.append(kind(_part_of(own, side, random) if kind in OF_PICTURES else _canvas(side, random), random))
    return made


def _part_of(own: Sequence[Image.Image], side: int, random: np.random.Generator) -> Image.Image:
    """A square of one of the pictures, enlarged where it is smaller."""
    image = own[int(random.integers(len(own)))]
    if min(image.size) < side:
        ratio = side / min(image.size)
        image = image.resize((max(side, round(image.width * ratio)), max(side, round(image.height * ratio))))
    left, top = (int(random.integers(0, limit - side + 1)) for limit in image.size)
    return image.crop((left, top, left + side, top + side))


def _canvas(side: int, random: np.random.Generator) -> Image.Image:
    """White, black or of one colour."""
    plain: tuple[object, ...] = ("white", "black", _colour(random))
    return Image.new("RGB", (side, side), plain[int(random.integers(3))])  # type: ignore[arg-type]


def _colour(random: np.random.Generator, saturated: bool = False) -> tuple[int, int, int]:
    red, green, blue = (int(x) for x in (random.choice((0, 255), 3) if saturated else random.integers(0, 256, 3)))
    return red, green, blue


def _against(image: Image.Image, random: np.random.Generator) -> tuple[int, int, int]:
    """A colour that can be seen on the picture's first pixel."""
    ground = np.asarray(image)[0, 0].astype(int)
    ink = np.where(ground < 128, random.integers(160, 256, 3), random.integers(0, 96, 3))
    return int(ink[0]), int(ink[1]), int(ink[2])


def _text(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Lines of chance letters, of one size and colour each."""
    pen, top = ImageDraw.Draw(image), 0
    while top < image.height:
        size = int(random.choice((7, 8, 9, 10, 12, 14, 18, 24)))
        line = "".join(random.choice(list(LETTERS + " " * 12), 1 + 3 * image.width // size))
        pen.text((int(random.integers(-4, 4)), top), line, _against(image, random), ImageFont.load_default(size))
        top += size + int(random.integers(1, 5))
    return image


def _lines(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Polygons, arcs and lines one to three pixels wide, smooth in half of the pictures."""
    smooth = bool(random.integers(2))
    side, ink = image.width, _against(image, random)
    large = image.resize((3 * side, 3 * side)) if smooth else image
    pen, width = ImageDraw.Draw(large), 3 if smooth else 1
    for _ in range(16):
        points = random.integers(0, large.width, (4, 2))
        corners = [(int(x), int(y)) for x, y in points]
        thick = width * int(random.integers(1, 4))
        if random.integers(2):
            pen.line([*corners, corners[0]], ink, thick)
        else:
            (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
            pen.arc((left, top, right + 1, bottom + 1), float(random.uniform(0, 360)), 400, ink, thick)
    return large.resize((side, side), Image.Resampling.BOX) if smooth else large


def _flats(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Shapes of one colour, some outlined, smoothed at their borders."""
    side = image.width
    large = image.resize((2 * side, 2 * side))
    pen = ImageDraw.Draw(large)
    for _ in range(14):
        middle, reach = random.uniform(0, 2 * side, 2), float(random.uniform(side / 12, side / 2))
        outline = [None, "black", "white"][int(random.integers(3))]
        angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 7))))
        corners = [(float(middle[0] + reach * np.cos(a)), float(middle[1] + reach * np.sin(a))) for a in angles]
        if random.integers(2):
            pen.polygon(corners, _colour(random), outline, int(random.integers(1, 6)))
        else:
            box = (middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach / 2)
            pen.ellipse(tuple(map(float, box)), _colour(random), outline, int(random.integers(1, 6)))
    return large.resize((side, side), Image.Resampling.BICUBIC)


def _blocks(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A grid of colours, saturated ones above all, cells of 1 to 16 pixels."""
    cell, side = int(random.choice((1, 2, 3, 4, 8, 16))), image.width
    count = -(-side // cell)
    colours = random.integers(0, 256, (count, count, 3))
    saturated = random.choice((0, 255), (count, count, 3))
    colours = np.where(random.random((count, count, 1)) < 0.7, saturated, colours).astype(np.uint8)
    return Image.fromarray(colours.repeat(cell, 0).repeat(cell, 1)[:side, :side])


def _patterns(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Checkerboards and gratings in four fields, down to one pixel, of two colours."""
    side = image.width
    y, x = np.mgrid[:side, :side]
    result = np.zeros((side, side, 3))
    for field in range(4):
        here = (y >= side // 2) == (field >= 2), (x >= side // 2) == (field % 2 == 1)
        cell, angle = int(random.integers(1, 5)), float(random.uniform(0, np.pi))
        if random.integers(2):
            share = (x // cell + y // cell) % 2
        else:
            wave = np.pi / cell * (x * np.cos(angle) + y * np.sin(angle))
            share = np.sin(wave + float(random.uniform(0, 6))) / 2 + 0.5
        ends = np.asarray([(0, 0, 0), (255, 255, 255)] if random.integers(2) else [_colour(random) for _ in "ab"])
        colours = ends[0] + share[..., None] * (ends[1] - ends[0])
        result = np.where((here[0] & here[1])[..., None], colours, result)
    return Image.fromarray(result.round().astype(np.uint8))


def _gradients(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Colours of a coarse grid, smoothly joined."""
    grid = random.integers(0, 256, (*random.integers(2, 5, 2), 3)).astype(np.uint8)
    return Image.fromarray(grid).resize(image.size, Image.Resampling.BICUBIC)


def _noise(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Noise of some strength on one colour, grey or coloured, down to pixels of pure chance."""
    shape = (*image.size[::-1], int(random.choice((1, 3))))
    strength = float(random.choice((8, 25, 60, 120)))
    noisy = np.asarray(image, np.float32) * 0.5 + 64 + random.normal(0, strength, shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _stars(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Points on black, single pixels and blurred discs."""
    sky = Image.new("RGB", image.size, "black")
    pen = ImageDraw.Draw(sky)
    for _ in range(image.width // 2):
        x, y = (int(v) for v in random.integers(0, image.width, 2))
        reach = float(random.choice((0, 0, 0, 1, 1.5)))
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), _against(sky, random))
    return sky.filter(ImageFilter.GaussianBlur(0.7)) if random.integers(2) else sky


def _sprites(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Pixel art: tiles of few colours, symmetric or repeated, each square 1 to 4 pixels."""
    cell, side = int(random.integers(1, 5)), image.width
    palette = random.integers(0, 256, (6, 3)).astype(np.uint8)
    tile = random.integers(0, 6, (12, 6))
    tile[random.random((12, 6)) < 0.35] = 0
    count = -(-side // (12 * cell))
    sheet = palette[np.tile(np.concatenate([tile, tile[:, ::-1]], 1), (count, count))]
    return Image.fromarray(sheet.repeat(cell, 0).repeat(cell, 1)[:side, :side])


def _jpeg(image: Image.Image, random: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(random.integers(8, 40)))
    return Image.open(file).convert("RGB")


def _sharpened(image: Image.Image, random: np.random.Generator) -> Image.Image:
    percent = int(random.integers(150, 500))
    return image.filter(ImageFilter.UnsharpMask(float(random.uniform(0.5, 2)), percent, 0))


def _framed(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Black and white borders around a darkened or bright picture."""
    side = image.width
    wide, thin = int(random.integers(side // 8, side // 3)), int(random.integers(1, 8))
    framed = Image.new("RGB", (side, side), "black")
    framed.paste("white", (wide - thin, wide - thin, side - wide + thin, side - wide + thin))
    framed.paste(image.crop((wide, wide, side - wide, side - wide)), (wide, wide))
    return framed


KINDS = (
    _text, _blocks, _sharpened, _patterns, _lines, _noise, _flats, _sprites, _jpeg, _stars, _gradients, _framed,
)  # fmt: skip
OF_PICTURES = (_jpeg, _sharpened, _framed)
