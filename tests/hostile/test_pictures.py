"""Pictures that are damaged, of odd kinds, sizes and modes. Each is enlarged between two good ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.hostile import containers, metadata
from tests.hostile.bench import SIZE, difference, levels, pattern
from tests.hostile.encoded import (
    FORMATS,
    Shown,
    Write,
    chunks,
    damaged,
    decoded,
    drawn,
    picture,
    saved,
    whole,
    written,
)
from tests.hostile.pixels import MODES
from tests.hostile.trial import Trial

WHOLE = {**{kind: whole(kind) for kind in FORMATS}, **containers.files()}


def enlarge(
    trial: Trial,
    file: str,
    write: Write,
    accept: bool | None = None,
    options: tuple[str, ...] = (),
    seconds: int = 20,
) -> None:
    """`in/FILE` between good pictures; what is accepted has to look as the same picture in a plain PNG does."""
    given, out = trial.folder / "in", trial.folder / "out"
    given.mkdir()
    shown = write(given / file)
    stems = ["first good", "last good"]
    for stem in stems:
        pattern().save(given / f"{stem}.png")
    words = ["in/first good.png", f"in/{file}", "in/last good.png"]
    if shown is not None:
        shown.save(given / "as shown.png")
        words.append("in/as shown.png")
        stems.append("as shown")
    kind = options[options.index("--format") + 1] if "--format" in options else "png"
    must = tuple(f"out/{stem}.{kind}" for stem in stems)
    outcome = trial.infer(*words, *options, accept=accept, must=must, warm=True, seconds=seconds)
    found = out / f"{Path(file).stem}.{kind}"
    if outcome.status == 0 and shown is not None:
        assert not difference(found, out / f"as shown.{kind}")
        assert not profile_fault(found, given / file)
    elif outcome.status == 0:
        assert not nothing_seen(found, given / file)


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


@pytest.mark.parametrize("kind", WHOLE)
@drawn(48)
@given(data=st.data())
def test_a_damaged_picture(trials: Callable[[], AbstractContextManager[Trial]], kind: str, data: Any) -> None:
    """Truncated, bits flipped, stretches zeroed, garbage put in, at any place of every format."""
    with trials() as trial:
        enlarge(trial, f"hurt.{kind}", partial(written, damaged(WHOLE[kind], data.draw)))


def cases() -> Iterator[Any]:
    for kind, data in WHOLE.items():
        yield picture(f"whole {kind}", f"whole.{kind}", partial(decoded, data), True, seconds=30)
    yield from disguised()
    for name, (file, write, accept) in MODES.items():
        yield picture(name, file, write, accept)
        if accept:
            yield picture(f"{name} to webp", file, write, None, ("--format", "webp", "--tile", "0"))
    yield from sizes()
    yield from metadata.cases()
    yield from containers.cases()


def disguised() -> Iterator[Any]:
    """Other formats under a picture's name; a format that Pillow reads may be read, rightly."""

    def other(kind: str, path: Path) -> Shown:
        pattern().save(path, kind)
        with Image.open(path) as read:
            return read.convert("RGB")

    for suffix in ("jpg", "png"):
        for kind in ("AVIF", "GIF", "ICO", "PPM", "TGA", "JPEG2000", "DDS", "SGI", "PCX", "IM"):
            if kind in Image.SAVE:
                yield picture(f"{kind} as {suffix}", f"other.{suffix}", partial(other, kind))
        for kind in UNREAD:
            yield picture(f"{kind} as {suffix}", f"other.{suffix}", partial(_unread, kind), False)
        for name, data in TEXTS.items():
            yield picture(f"{name} as {suffix}", f"other.{suffix}", partial(written, data), False)
    for kind in FORMATS:
        for suffix in ("png", "jpg", "webp", "tif", "bmp"):
            yield picture(f"{kind} named {suffix}", f"other.{suffix}", partial(decoded, whole(kind)), True)
    for kind, suffix in (("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif"), ("MPO", "jpg")):
        data = saved(pattern(), kind, save_all=True, append_images=[Image.new("RGB", SIZE)])
        yield picture(f"two frames {kind}", f"frames.{suffix}", partial(decoded, data), True)


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


def sizes() -> Iterator[Any]:
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
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    path.write_bytes(chunks((b"IHDR", header), (b"IDAT", zlib.compress(b""))))
    return None


@pytest.mark.parametrize(("file", "write", "accept", "options", "seconds"), list(cases()))
def test_a_picture_of_an_odd_kind(
    trial: Trial, file: str, write: Write, accept: bool | None, options: tuple[str, ...], seconds: int
) -> None:
    enlarge(trial, file, write, accept, options, seconds)
