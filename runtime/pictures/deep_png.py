"""PNGs of 16 bits a channel, which Pillow writes of one channel alone. Everything but the pixels is Pillow's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import IO, Any

import numpy as np
from PIL import Image

COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → colour type
ROWS = 1 << 22  # bytes that are filtered at once
PAETH = 4


def write_deep(pixels: np.ndarray, file: IO[bytes], **options: Any) -> None:
    """uint16 [H, W, 1 to 4] as a PNG; options: Pillow's for PNG, of profile, EXIF, resolution and texts."""
    plain = BytesIO()
    Image.new("L", (1, 1)).save(plain, "PNG", **options)
    file.write(plain.getvalue()[:8])
    height, width, channels = pixels.shape
    for kind, data in _chunks(plain.getvalue()):
        if kind == b"IHDR":
            _write(file, kind, struct.pack(">IIBBBBB", width, height, 16, COLOURS[channels], 0, 0, 0))
        elif kind == b"IDAT":
            packed = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
            for rows in _filtered(pixels):
                if part := packed.compress(rows):
                    _write(file, kind, part)
            _write(file, kind, packed.flush())
        else:
            _write(file, kind, data)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += length + 12


def _write(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _filtered(pixels: np.ndarray) -> Iterator[bytes]:
    """Rows under PNG's Paeth filter, some at a time: each byte less the nearest of left, above and both."""
    height, width, channels = pixels.shape
    step, length = 2 * channels, 2 * channels * width
    count = max(1, ROWS // length)
    above = np.zeros((1, step + length), np.int16)
    for top in range(0, height, count):
        part = pixels[top : top + count].astype(">u2")
        raw = np.zeros((len(part), step + length), np.int16)
        raw[:, step:] = part.view(np.uint8).reshape(len(part), length)
        upper = np.concatenate([above, raw[:-1]])
        left, up, corner = raw[:, :-step], upper[:, step:], upper[:, :-step]
        to_left, to_up, to_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
        nearest = np.where(to_up <= to_corner, up, corner)
        nearest = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
        rows = np.empty((len(part), 1 + length), np.uint8)
        rows[:, 0] = PAETH
        rows[:, 1:] = (raw[:, step:] - nearest).astype(np.uint8)
        yield rows.tobytes()
        above = raw[-1:]
