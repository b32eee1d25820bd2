"""Pictures that are damaged, of odd kinds, sizes and modes. Each is enlarged between two good ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.bench import SIZE, Bench, difference, levels, pattern
from tests.hostile.harness import Case, Outcome, Trial

KIND = "pictures"
Shown = Image.Image | None  # what the file shows, 8 bits; None: nobody can tell
Write = Callable[[Path], Shown]


def cases() -> Iterator[Case]:
    yield from damaged()
    yield from disguised()
    yield from modes()
    yield from sizes()
    from tests.hostile import containers, metadata

    yield from metadata.cases()
    yield from containers.cases()


def picture(
    name: str,
    file: str,
    write: Write,
    accept: bool | None = None,
    options: tuple[str, ...] = (),
    seconds: float = 20,
) -> Case:
    """A case of one picture `in/FILE`; what is accepted has to look as the same picture in a plain PNG does."""
    return Case(name, KIND, partial(_make, file, write, accept, options, seconds))


def _make(
    file: str,
    write: Write,
    accept: bool | None,
    options: tuple[str, ...],
    seconds: float,
    folder: Path,
    bench: Bench,
) -> Trial:
    given = folder / "in"
    given.mkdir()
    shown = write(given / file)
    pattern().save(given / "first good.png")
    pattern().save(given / "last good.png")
    words = ["in/first good.png", f"in/{file}", "in/last good.png"]
    kind = options[options.index("--format") + 1] if "--format" in options else "png"
    must = [f"out/first good.{kind}", f"out/last good.{kind}"]
    if shown is not None:
        shown.save(given / "as shown.png")
        words.append("in/as shown.png")
        must.append(f"out/as shown.{kind}")
    size = shown.size if shown is not None else None

    def right(_outcome: Outcome) -> str:
        found = folder / "out" / f"{Path(file).stem}.{kind}"
        if size is not None:
            return difference(found, folder / "out" / f"as shown.{kind}") or profile_fault(found, given / file)
        return nothing_seen(found, given / file)

    argv = ["infer", *words, "-o", "out", "--engines", str(bench.int8), *options]
    return Trial(argv, accept, right, must=tuple(must), may=("out",), warm=True, seconds=seconds)


def nothing_seen(path: Path, given: Path) -> str:
    """A picture of one colour is wrong, unless Pillow sees one in the file as well."""
    try:
        with Image.open(path) as image:
            pixels = levels(image)[..., :3]
    except OSError as error:
        return f"{path.name} cannot be read: {error}"
    if np.ptp(pixels, axis=(0, 1)).max() >= 2:
        return ""
    with Image.open(given) as image:
        seen = np.ptp(levels(image)[..., :3], axis=(0, 1)).max()
    return f"{path.name} is one colour: {pixels[0, 0]}" if seen >= 2 else ""


def profile_fault(path: Path, given: Path) -> str:
    """A profile of another colour space than the picture's shows wrong colours; one that was wrong may stay so."""
    with Image.open(path) as image:
        profile, grey = image.info.get("icc_profile", b""), image.mode in ("L", "LA", "1")
    if len(profile) <= 128 or profile[16:20] == (b"GRAY" if grey else b"RGB "):
        return ""
    with Image.open(given) as image:
        kept = image.mode not in ("CMYK", "LAB", "YCbCr")
    return "" if kept else f"{path.name} carries a profile of {profile[16:20]!r}"


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


def whole(kind: str, **more: Any) -> bytes:
    """The pattern in one of FORMATS."""
    name, options = FORMATS[kind]
    buffer = BytesIO()
    pattern().save(buffer, name, **{**options, **more})
    return buffer.getvalue()


def damaged(positions: int = 16) -> Iterator[Case]:
    """Truncated, bits flipped, stretches zeroed, garbage put in, at many places of every format."""
    for kind in FORMATS:
        random_ = random.Random(kind)
        length = len(whole(kind))
        places = [*sorted(random_.sample(range(1, length), positions - 4)), 1, 12, 30, length - 1]
        for place in places:
            for name, damage in DAMAGES.items():
                data = damage(whole(kind), place, random_)
                yield picture(f"{name} {kind} at {place}", f"hurt.{kind}", partial(_write_bytes, data))


def _write_bytes(data: bytes, path: Path) -> Shown:
    path.write_bytes(data)
    return None


DAMAGES: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "truncated": lambda data, at, _random: data[:at],
    "flipped": lambda data, at, chance: (
        data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    ),
    "zeroed": lambda data, at, _random: data[:at] + bytes(len(data[at : at + 16])) + data[at + 16 :],
    "inserted": lambda data, at, chance: data[:at] + chance.randbytes(9) + data[at:],
}


def disguised() -> Iterator[Case]:
    """Other formats under a picture's name; a format that Pillow reads may be read, rightly."""

    def other(kind: str, image: Image.Image, path: Path) -> Shown:
        image.save(path, kind)
        with Image.open(path) as read:
            return read.convert("RGB")

    rgb = pattern()
    for suffix in ("jpg", "png"):
        for kind in (
            "AVIF",
            "GIF",
            "PSD",
            "EPS",
            "ICO",
            "PPM",
            "TGA",
            "JPEG2000",
            "PDF",
            "DDS",
            "SGI",
            "PCX",
            "IM",
        ):
            if kind in Image.SAVE or kind == "PSD":
                write = partial(other, kind, rgb) if kind not in UNREAD else partial(_unread, kind)
                yield picture(f"{kind} as {suffix}", f"other.{suffix}", write, False if kind in UNREAD else None)
        for name, data in TEXTS.items():
            yield picture(f"{name} as {suffix}", f"other.{suffix}", partial(_write_bytes, data), False)
    for kind in FORMATS:
        for suffix in ("png", "jpg", "webp", "tif", "bmp"):
            yield picture(f"{kind} named {suffix}", f"other.{suffix}", partial(_decoded, whole(kind)), True)
    frames = [pattern(), Image.new("RGB", SIZE)]
    for kind, suffix in (("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif"), ("MPO", "jpg")):
        buffer = BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        yield picture(f"two frames {kind}", f"frames.{suffix}", partial(_decoded, buffer.getvalue()), True)


def _decoded(data: bytes, path: Path) -> Shown:
    path.write_bytes(data)
    with Image.open(path) as read:
        return read.convert("RGB")


def _unread(kind: str, path: Path) -> Shown:
    if kind == "PSD":
        path.write_bytes(b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 16, 24, 8, 3) + bytes(40))
    else:
        pattern().save(path, kind)
    return None


UNREAD = ("PDF", "EPS", "PSD")  # written, never to be read: EPS starts Ghostscript
TEXTS = {
    "text": b"not an image\n" * 40,
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="24" height="16"/>',
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "zeros": bytes(4096),
    "empty": b"",
    "newline": b"\n",
    "blp": b"BLP2" + struct.pack("<IBBBBII", 1, 2, 8, 0, 0, 24, 16) + bytes(2048),
    "fits": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(80) + bytes(2720),
    "mpeg": b"\x00\x00\x01\xb3\x01\x80\x10\x00" + bytes(64),
    "xbm": b"#define im_width 24\n#define im_height 16\nstatic char im_bits[] = {\n" + b"0x00," * 48 + b"};",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


def modes() -> Iterator[Case]:
    from tests.hostile.pixels import MODES

    for name, (file, write, accept) in MODES.items():
        yield picture(name, file, write, accept)
        if accept:
            yield picture(f"{name} to webp", file, write, None, ("--format", "webp", "--tile", "0"))


def sizes() -> Iterator[Case]:
    def plain(mode: str, size: tuple[int, int], path: Path) -> Shown:
        image = Image.new(mode, size) if mode == "1" else pattern(size).convert(mode)
        image.save(path)
        return None

    for side in ((1, 1), (7, 8), (8, 7), (1, 500)):
        yield picture(f"{side[0]}×{side[1]}", "small.png", partial(plain, "RGB", side), False)
    for side in ((8, 8), (8, 9), (9, 130), (130, 8)):
        yield picture(f"{side[0]}×{side[1]}", "small.png", partial(plain, "RGB", side), True)
    bomb = partial(plain, "1", (8000, 8000))
    yield picture("bomb at 0.5 GiB", "bomb.png", bomb, False, ("--memory", "0.5"))
    for index, side in enumerate(((30000, 30000), (2**31 - 1, 2**31 - 1), (65500, 65500), (0, 0), (0, 16))):
        yield picture(f"header of {side}", f"bomb{index}.png", partial(_header, side), False)


def _header(size: tuple[int, int], path: Path) -> Shown:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    return None
