"""Pictures unlike photos that quantization is judged on: text, art, screens, sky, and two extremes. Seeded.

Calibration draws other pictures, by other code (synthetic.py): what is judged here was not calibrated on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Draw = Callable[[int, np.random.Generator], Image.Image]
Colour = tuple[int, int, int]

PROSE = (
    "The quick brown fox jumps",
    "over 0123456789 lazy dogs;",
    "pack my box with (five)",
    "dozen liquor jugs. AVWMNXKZ",
    "Il1|! {[<>]} @#%& fi fl ffi",
)
CODE = (
    "def upscale(x, scale=4):",
    "    y = model(x[None])[0]",
    "    if y.max() > 1.0:",
    '        raise ValueError("y")',
    "    return (y * 255).round()",
    "# TODO: tiles, 8-bit, tests",
    "for i in range(0, n, 2):",
    "    total += w[i] ** 2 / n",
)
SYNTAX = ((198, 120, 221), (152, 195, 121), (97, 175, 239), (229, 192, 123), (224, 108, 117), (171, 178, 191))


def drawn_set(side: int, seed: int = 0) -> dict[str, Image.Image]:
    """Pictures of side × side pixels, RGB of 8 bits, by what is drawn; EXTREME are among them."""
    return {
        name: draw(side, np.random.default_rng((seed, index))) for index, (name, draw) in enumerate(DRAWN.items())
    }


def _text(side: int, random: np.random.Generator) -> Image.Image:
    """Prose in growing letters, dark on white."""
    image = Image.new("RGB", (side, side), "white")
    pen, top, size = ImageDraw.Draw(image), 1, 8
    while top < side:
        line = PROSE[int(random.integers(len(PROSE)))]
        pen.text(
            (2, top), line, (int(random.integers(60)), 0, int(random.integers(60))), ImageFont.load_default(size)
        )
        top, size = top + size + 3, size + 1 if size < 18 else 8
    return image


def _code(side: int, random: np.random.Generator) -> Image.Image:
    """An editor's window, coloured words on dark."""
    image = Image.new("RGB", (side, side), (40, 44, 52))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(10)
    for row, top in enumerate(range(2, side, 12)):
        pen.text((2, top), f"{row + 1:>2}", (92, 99, 112), font)
        line = CODE[(row + int(random.integers(2))) % len(CODE)]
        left = 18.0 + 5 * (len(line) - len(line.lstrip()))
        for word in line.split():
            pen.text((left, top), word, SYNTAX[int(random.integers(len(SYNTAX)))], font)
            left += pen.textlength(word + " ", font)
    return image


def _line_art(side: int, random: np.random.Generator) -> Image.Image:
    """A pen drawing: lines, circles and curves of one and two pixels, hard and smooth."""
    large = Image.new("L", (4 * side, 4 * side), 255)
    pen = ImageDraw.Draw(large)
    for index in range(10):
        steps = np.linspace(0, 2 * np.pi, 40)
        x, y = (
            2 * side * (1 + 0.9 * np.sin(steps * float(random.uniform(0.3, 1.5)) + float(random.uniform(0, 6))))
            for _axis in range(2)
        )
        pen.line([(float(a), float(b)) for a, b in zip(x, y, strict=True)], 0, 4 + 4 * (index % 2))
    image = large.resize((side, side), Image.Resampling.BOX).convert("RGB")
    pen = ImageDraw.Draw(image)
    for index in range(8):
        left, top, right, bottom = (int(x) for x in random.integers(0, side, 4))
        ink = "black" if index % 4 else (200, 30, 60)
        pen.line((left, top, right, bottom), ink)
        pen.ellipse((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=ink)
    return image


def _cartoon(side: int, random: np.random.Generator) -> Image.Image:
    """A flat landscape with a figure: plain fills within black outlines, smoothed as drawing programs do."""
    wide = 3 * side
    image = Image.new("RGB", (wide, wide), (120, 200, 250))
    pen = ImageDraw.Draw(image)

    def colour() -> Colour:
        red, green, blue = (int(x) for x in random.integers(30, 256, 3))
        return red, green, blue

    pen.ellipse((wide * 0.7, wide * 0.05, wide * 0.9, wide * 0.25), (255, 220, 40), "black", 4)
    for height in (0.55, 0.7, 0.85):
        x = np.linspace(0, wide, 30)
        y = wide * height + wide * 0.07 * np.sin(x / wide * float(random.uniform(4, 12)))
        hill = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
        pen.polygon([*hill, (wide, wide), (0, wide)], colour())
        pen.line(hill, "black", 5)
    for index in range(3):
        left, top, size = wide * (0.08 + 0.28 * index), wide * float(random.uniform(0.3, 0.6)), wide * 0.2
        pen.ellipse((left, top, left + size, top + size), colour(), "black", 6)
        for eye in (0.3, 0.65):
            middle = (left + eye * size, top + 0.4 * size)
            pen.ellipse((middle[0] - 9, middle[1] - 12, middle[0] + 9, middle[1] + 12), "white", "black", 3)
            pen.ellipse((middle[0] - 3, middle[1] - 3, middle[0] + 4, middle[1] + 6), "black")
        pen.arc((left + 0.3 * size, top + 0.5 * size, left + 0.7 * size, top + 0.85 * size), 10, 170, "black", 5)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _blocks(side: int, random: np.random.Generator) -> Image.Image:
    """Rectangles of saturated colours in front of one another."""
    image = Image.new("RGB", (side, side), "black")
    pen = ImageDraw.Draw(image)
    for _ in range(24):
        left, top = (int(x) for x in random.integers(0, side, 2))
        width, height = (int(x) for x in random.integers(2, side // 3, 2))
        red, green, blue = (int(x) for x in random.choice((0, 64, 128, 192, 255), 3))
        pen.rectangle((left, top, left + width, top + height), (red, green, blue))
    return image


def _qr(side: int, random: np.random.Generator) -> Image.Image:
    """What looks like a QR code of 25 × 25 modules, each of whole pixels."""
    modules = random.integers(0, 2, (25, 25))
    finder = np.pad(np.pad(np.ones((3, 3), int), 1), 1, constant_values=1)
    for top, left in ((0, 0), (0, 18), (18, 0)):
        modules[top : top + 7, left : left + 7] = finder
    size = max(1, side // 29)
    black = np.pad(modules.repeat(size, 0).repeat(size, 1), 2 * size)
    black = np.pad(black, ((0, max(0, side - black.shape[0])), (0, max(0, side - black.shape[1]))))[:side, :side]
    return Image.fromarray((255 - 255 * black).astype(np.uint8)).convert("RGB")


def _gradient(side: int, random: np.random.Generator) -> Image.Image:
    """Two smooth transitions, one of them round."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    distance = np.hypot(x - random.uniform(0.2, 0.8), y - random.uniform(0.2, 0.8))[..., None].clip(0, 1)
    colours = random.uniform(0, 255, (4, 3))
    around = colours[0] * (1 - distance) + colours[1] * distance
    across = colours[2] * (1 - x[..., None]) + colours[3] * x[..., None]
    return Image.fromarray(np.where(y[..., None] < 0.5, around, across).round().astype(np.uint8))


def _stars(side: int, random: np.random.Generator) -> Image.Image:
    """Points of light on black, the bright ones with a halo, and faint noise."""
    sky = np.zeros((side, side, 3), np.float32)
    for _ in range(side):
        y, x = random.integers(0, side, 2)
        sky[y, x] = random.uniform(0.6, 1, 3) * 255 * random.power(0.4)
    halo = np.asarray(Image.fromarray(sky.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2)), np.float32)
    noisy = sky + 2 * halo + random.normal(4, 2, sky.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


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


def _noise(side: int, random: np.random.Generator) -> Image.Image:
    """Every pixel and colour by chance: no picture goes further."""
    return Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))


def _checkerboard(side: int, _random: np.random.Generator) -> Image.Image:
    """Squares of 1, 2, 4 and 8 pixels, a quarter of the picture each."""
    row, column = np.mgrid[:side, :side]
    half = side // 2
    size = np.where(row < half, np.where(column < half, 1, 2), np.where(column < half, 4, 8))
    white = (row // size + column // size) % 2
    return Image.fromarray((white * 255).astype(np.uint8)).convert("RGB")


EXTREME = ("noise", "checkerboard")
DRAWN: dict[str, Draw] = {
    "text": _text,
    "code": _code,
    "line art": _line_art,
    "cartoon": _cartoon,
    "blocks": _blocks,
    "QR code": _qr,
    "gradient": _gradient,
    "stars": _stars,
    "pixel art": _pixel_art,
    "noise": _noise,
    "checkerboard": _checkerboard,
}
