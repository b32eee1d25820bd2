"""Pictures for tests: noise, PNGs of any depth and chunks, and what is written of a picture that was read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.pictures.pictures import Picture
from passionsr_trt.runtime.pictures.images import save_image
from PIL import Image

RNG = np.random.default_rng(0)
SIZE = (24, 16)


def noise(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def png(path: Path, pixels: np.ndarray, *chunks: tuple[bytes, bytes], interlaced: bool = False) -> Path:
    """uint8 or uint16 [H, W, C] as a PNG, written by hand. chunks: those that stand in front of the pixels."""
    height, width, channels = pixels.shape
    big = pixels.astype(f">u{pixels.itemsize}")
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = [row for x, y, dx, dy in passes for row in big[y::dy, x::dx] if row.size]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, kind, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
    )
    return path


def written(picture: Picture, path: Path, **options: Any) -> Image.Image:
    """What a picture is as a file, written as its own result."""
    deep = None if picture.deep is None else np.ascontiguousarray(picture.deep[..., :3])
    save_image(picture.rgb, path, picture, deep=deep, **options)
    with Image.open(path) as image:
        image.load()
        return image
