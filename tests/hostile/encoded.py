"""Pictures as bytes: whole in many formats, damaged, and PNGs made by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from tests.hostile.bench import pattern

Shown = Image.Image | None  # what a file shows, 8 bits; None: nobody can tell
Write = Callable[[Path], Shown]
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {"quality": 90}),
    "progressive.jpg": ("JPEG", {"quality": 90, "progressive": True}),
    "webp": ("WEBP", {"quality": 90}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
}


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole(kind: str, **more: Any) -> bytes:
    """The pattern in one of FORMATS."""
    name, options = FORMATS[kind]
    return saved(pattern(), name, **{**options, **more})


DAMAGES: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "truncated": lambda data, at, _noise: data[:at],
    "flipped": lambda data, at, noise: data[:at] + bytes([data[at] ^ (1 << noise[0] % 8)]) + data[at + 1 :],
    "zeroed": lambda data, at, _noise: data[:at] + bytes(len(data[at : at + 16])) + data[at + 16 :],
    "inserted": lambda data, at, noise: data[:at] + noise + data[at:],
}


def drawn(examples: int) -> settings:
    """So many examples, the same in each run."""
    health = list(HealthCheck)  # a case is slow, and has a folder of its own
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=health
    )


def damaged(data: bytes, draw: Callable[[Any], Any]) -> bytes:
    """One of DAMAGES at a place that hypothesis draws."""
    kind = draw(st.sampled_from(list(DAMAGES)))
    return DAMAGES[kind](data, draw(st.integers(1, len(data) - 1)), draw(st.binary(min_size=9, max_size=9)))


def picture(
    name: str,
    file: str,
    write: Write,
    accept: bool | None = None,
    options: tuple[str, ...] = (),
    seconds: int = 20,
) -> Any:
    """The parameters of one case: a picture `in/FILE`, whether it has to be enlarged, further options."""
    return pytest.param(file, write, accept, options, seconds, id=name)


def written(data: bytes, path: Path) -> Shown:
    path.write_bytes(data)
    return None


def decoded(data: bytes, path: Path) -> Shown:
    path.write_bytes(data)
    with Image.open(path) as image:
        return image.convert("RGBA" if "soft" in path.name else "RGB")


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def png(pixels: np.ndarray, *beside: tuple[bytes, bytes]) -> bytes:
    """[H, W, C] of 8 or 16 bits; beside: chunks in front of the pixels."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for row in pixels)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, kind, 0, 0, 0)
    return chunks((b"IHDR", header), *beside, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
