"""EXIF and ICC of every kind of badness; the picture itself is whole."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

from tests.hostile.encoded import Shown, picture, whole


def cases() -> Iterator[Any]:
    def write(kind: str, more: dict[str, Any], known: bool, path: Path) -> Shown:
        path.write_bytes(whole(kind, **more))
        with Image.open(BytesIO(whole(kind))) as read:
            return read.convert("RGB") if known else None

    exifs: dict[str, bytes] = {f"orientation {value}": _exif(3, value) for value in (0, 9, 65535)}
    exifs |= {f"orientation of type {kind}": _exif(kind, 6) for kind in (0, 1, 2, 5, 7, 12, 13, 99)}
    exifs |= {
        "cut": _exif(3, 1)[:9], "empty": b"Exif\0\0", "no header": b"II*\0",
        "garbage": random.Random(0).randbytes(300),
        "loop": b"Exif\0\0II*\0\x08\0\0\0" + b"\1\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I",
        8),
        "far offset": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "many": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(60),
    }  # fmt: skip
    profiles = {
        "3 MB": _srgb() + bytes(3_000_000), "1 byte": b"x", "garbage": random.Random(1).randbytes(500),
        "cmyk": _srgb()[:16] + b"CMYK" + _srgb()[20:], "grey": _srgb()[:16] + b"GRAY" + _srgb()[20:],
    }  # fmt: skip
    for kind in ("jpg", "png", "webp", "tif"):
        for name, exif in exifs.items():
            if kind != "tif":
                known = " of type " not in name  # those may be turned or not
                yield picture(
                    f"exif {name} {kind}", f"exif.{kind}", partial(write, kind, {"exif": exif}, known), True
                )
        for name, icc in profiles.items():
            for format_ in ("png", "webp", "jpg"):
                more = {"icc_profile": icc}
                options = ("--format", format_) if format_ != "png" else ()
                yield picture(
                    f"icc {name} {kind} to {format_}", f"icc.{kind}", partial(write, kind, more, True),
                    None if format_ != "png" or (name, kind) == ("3 MB", "png") else True, options,
                )  # fmt: skip


def _exif(kind: int, value: int) -> bytes:
    entry = struct.pack("<HHII", 0x0112, kind, 1, value)
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + entry + bytes(4)


def _srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
