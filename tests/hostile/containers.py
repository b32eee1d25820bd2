"""Formats beyond the common ones, files of several frames, 16 bits a channel, PNG's chunks: damaged, and wrong."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.bench import pattern
from tests.hostile.encoded import Shown, picture, png, saved, written
from tests.hostile.pixels import alpha, soft

DEEP = np.asarray(pattern()).astype(np.uint16) * 257
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "gif": ("GIF", {}), "avif": ("AVIF", {"quality": 90}), "jp2": ("JPEG2000", {}), "tga": ("TGA", {}),
    "rle.tga": ("TGA", {"compression": "tga_rle"}), "ppm": ("PPM", {}), "mpo": ("MPO", {"save_all": True}),
}  # fmt: skip
FRAMES = {"gif": "GIF", "webp": "WEBP", "png": "PNG", "tif": "TIFF", "avif": "AVIF"}


def cases() -> Iterator[Any]:
    yield from beside()
    yield from tags()
    for word in ("white", "#123456", "#fff", "rgb(1,2,3)"):
        options = ("--format", "jpg", "--background", word)
        yield picture(f"background {word}", "a.png", partial(alpha, "RGBA"), True, options)
        yield picture(
            f"background {word}, nothing seen", "a.png", partial(alpha, "RGBA", seen=False), True, options
        )


def files() -> dict[str, bytes]:
    """Whole files by their names' ends."""
    found = {"deep.png": png(DEEP), "deep.tif": _tiff(b""), "soft.png": saved(soft(), "PNG")}
    for suffix, (kind, options) in FORMATS.items():
        if kind in Image.SAVE:
            found[suffix] = saved(pattern(), kind, **options)
    for suffix, kind in FRAMES.items():
        if kind in Image.SAVE:
            others = [pattern().rotate(180), pattern().convert("L").convert("RGB")]
            found[f"frames.{suffix}"] = saved(pattern(), kind, save_all=True, append_images=others)
    return found


def beside() -> Iterator[Any]:
    """What stands beside a PNG's pixels, which are whole: it looks as it does without, or nobody can tell."""
    number = partial(struct.pack, ">I")
    megabyte = zlib.compress(bytes(1_000_000))
    many = [(b"zTXt", b"k%d\0\0" % index + megabyte) for index in range(70)]
    found: dict[str, tuple[list[tuple[bytes, bytes]], bool | None]] = {
        **{f"gAMA {value}": ([(b"gAMA", number(value))], True) for value in (0, 1, 45455, 2**32 - 1)},
        **{f"cHRM of {length}": ([(b"cHRM", b"\xff" * length)], None) for length in (0, 8, 31, 32, 400)},
        **{f"sRGB {data!r}": ([(b"sRGB", data)], None) for data in (b"", b"\x09", bytes(40))},
        "gAMA short": ([(b"gAMA", b"\0")], None),
        "cHRM 0": ([(b"cHRM", bytes(32))], True),
        "pHYs 0": ([(b"pHYs", bytes(8) + b"\1")], True),
        "pHYs most": ([(b"pHYs", b"\xff" * 8 + b"\1")], True),
        "text bomb": ([(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))], None),
        "text bombs": (many, None),
        "long text": ([(b"tEXt", b"k\0" + b"x" * 8_000_000)], True),
        "text without a key": ([(b"tEXt", b"\0value")], True),
        "text of a long key": ([(b"tEXt", b"k" * 300 + b"\0value")], True),
        "text of escapes": ([(b"tEXt", b"\x1b[31m\0\x1b[31m")], True),
        "text of no UTF-8": ([(b"iTXt", b"k\0\0\0\0\0\xff\xfe")], True),
        "profile of escapes": ([(b"tEXt", b"Raw profile type \x1b[31m\0x")], True),
        "EXIF as text": ([(b"tEXt", b"Raw profile type exif\0\nexif\n 8\nzz\n")], True),
        "XMP of no text": ([(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"\xff\0" * 50)], True),
        "XMP long": ([(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 2_000_000)], True),
        "frames without end": ([(b"acTL", struct.pack(">II", 2**31 - 1, 0))], None),
    }
    for word in ("gamma", "srgb", "chromaticity", "transparency", "icc_profile", "dpi", "exif", "xmp", "comment"):
        found[f"text named {word}"] = ([(b"tEXt", word.encode() + b"\0value")], True)
    for name, (beside, accept) in found.items():
        for label, pixels in (("8", np.asarray(pattern())), ("16", DEEP)):
            yield picture(f"{name}, {label} bits", "beside.png", partial(_known, pixels, beside), accept)
        if accept:
            write, options = partial(_known, DEEP, beside), ("--format", "jpg")
            yield picture(f"{name} to JPEG", "beside.png", write, None, options)
    for length in (0, 1, 2, 6, 7, 600):
        for label, pixels in (("8", np.asarray(pattern())), ("16", DEEP), ("grey 16", DEEP[..., :1])):
            data = png(pixels, (b"tRNS", bytes(length)))
            yield picture(f"tRNS of {length}, {label} bits", "beside.png", partial(written, data))


def tags() -> Iterator[Any]:
    """TIFFs whose pages lead in circles or nowhere, and those turned by their tag."""
    for name, following in {"itself": 8, "nowhere": 2**31, "the end": 600, "odd": 9}.items():
        yield picture(f"next page is {name}", "pages.tif", partial(written, _tiff(b"", following)), None)
    for orientation in range(10):
        tag = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
        for label, pixels in (("colour", DEEP), ("grey", np.asarray(pattern())[..., :1])):
            data = partial(_turned, _tiff(tag, pixels=pixels), orientation, pixels)
            yield picture(f"turned {orientation}, {label}", "turned.tif", data, True)


def _tiff(more: bytes, following: int = 0, pixels: np.ndarray = DEEP) -> bytes:
    """Uncompressed; more: entries behind the others; following: where the next page would be."""
    height, width, channels = pixels.shape
    bits = 8 * pixels.itemsize
    entries = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 2 if channels == 3 else 1), (273, 512),
    ]  # fmt: skip
    behind = [(277, channels), (278, height), (279, pixels.nbytes)]
    directory = b""
    for tag, value in entries:
        if tag == 258 and channels == 3:
            directory += struct.pack("<HHII", tag, 3, 3, 400)
        else:
            directory += struct.pack("<HHIHH", tag, 3, 1, value, 0)
    directory += more + b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in behind)
    count = struct.pack("<H", len(directory) // 12)
    head = b"II*\0" + struct.pack("<I", 8) + count + directory + struct.pack("<I", following)
    head = head.ljust(400, b"\0") + struct.pack("<3H", bits, bits, bits)
    return head.ljust(512, b"\0") + pixels.tobytes()


def _known(pixels: np.ndarray, beside: list[tuple[bytes, bytes]], path: Path) -> Shown:
    """The pattern, whatever stands beside it; but for a gamma, which makes it another."""
    path.write_bytes(png(pixels, *beside))
    return pattern()


def _turned(data: bytes, orientation: int, pixels: np.ndarray, path: Path) -> Shown:
    path.write_bytes(data)
    shown = Image.fromarray((pixels // (257 if pixels.itemsize == 2 else 1)).astype(np.uint8).squeeze())
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    return shown if method is None else shown.transpose(Image.Transpose(method))
