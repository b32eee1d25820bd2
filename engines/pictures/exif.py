"""EXIF as it came but for what the result says itself: byte for byte, since a rewriter would lose texts and notes.

A directory is a count, entries of 12 bytes and the next directory's place; values stand elsewhere by their place.
An entry goes by moving those behind it up, so that no place changes.
"""

from __future__ import annotations

import struct

HEADER = b"Exif\x00\x00"
MOST = 65_533  # bytes: what a JPEG takes
ENTRY = 12
WIDTH, HEIGHT, ORIENTATION, INNER = 0x0100, 0x0101, 0x0112, 0x8769
INNER_WIDTH, INNER_HEIGHT = 0xA002, 0xA003


def without_geometry(exif: bytes) -> bytes | None:
    """EXIF without orientation, sizes and thumbnail, ready for Pillow's `exif=`; None where nothing is left.

    ValueError where it is damaged, or longer than a JPEG takes.
    """
    data = bytearray(exif.removeprefix(HEADER))
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise ValueError("no EXIF")
    if len(data) + len(HEADER) > MOST:
        raise ValueError("too long")
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        kept = _drop(data, order, start, {WIDTH, HEIGHT, ORIENTATION}, last=True)
        if INNER in kept:
            _drop(data, order, kept[INNER], {INNER_WIDTH, INNER_HEIGHT}, last=False)
    except struct.error:
        raise ValueError("truncated") from None
    return HEADER + bytes(data) if kept else None


def _drop(data: bytearray, order: str, start: int, unwanted: set[int], last: bool) -> dict[int, int]:
    """Take entries out of the directory at `start`; tag → value or its place of those that stay.

    last: the directories behind it (the thumbnail's) are cut off.
    """
    (count,) = struct.unpack_from(f"{order}H", data, start)
    end = start + 2 + count * ENTRY
    (following,) = struct.unpack_from(f"{order}I", data, end)
    kept, entries = {}, b""
    for place in range(start + 2, end, ENTRY):
        tag, _kind, _length, value = struct.unpack_from(f"{order}HHII", data, place)
        if tag not in unwanted:
            kept[tag] = value
            entries += bytes(data[place : place + ENTRY])
    rest = struct.pack(f"{order}H", len(kept)) + entries + struct.pack(f"{order}I", 0 if last else following)
    data[start : end + 4] = rest.ljust(end + 4 - start, b"\x00")
    return kept
