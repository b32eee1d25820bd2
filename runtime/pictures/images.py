"""Images in and out: what is read is said, what is kept is kept, what is refused has one line.

Pixels are RGB float32 [3, H, W] in [-1, 1] inside; files are 8 bits, or 16 where the input has more than 8 and a
PNG is written. Alpha is enlarged beside the colours (bicubic), grey stays grey. engines/pictures reads. What a
format cannot hold is left out and said. PNGs of 16 bits a channel are written here: Pillow writes them of one
channel alone.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import prefix
from passionsr_trt.engines.pictures.pictures import Picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

WRITABLE = (".png", ".jpg", ".jpeg", ".webp")
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
JPEG = (".jpg", ".jpeg")
MOST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # pixels, by libjpeg and libwebp
MOST_JPEG_XMP = 65_504  # bytes, what Pillow writes
MOST_JPEG_COMMENT = 65_533
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → colour type
ROWS = 1 << 22  # bytes that are filtered at once
PAETH = 4


def to_image(array: np.ndarray) -> Image.Image:
    """[3, H, W] in [-1, 1] → 8-bit RGB; clamps, then rounds to nearest."""
    pixels = array + np.float32(1.0)
    pixels *= 127.5
    np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels)
    return Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0))


def to_deep(array: np.ndarray) -> np.ndarray:
    """[3, H, W] in [-1, 1] → uint16 [H, W, 3]; clamps, then rounds to nearest."""
    pixels = np.clip(np.rint((array + np.float32(1.0)) * np.float32(32767.5)), 0, 65535)
    return np.ascontiguousarray(pixels.astype(np.uint16).transpose(1, 2, 0))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """By Lanczos, to (height, width)."""
    return image.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def resized_deep(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same of uint16 [H, W, channels]: channel by channel in float, which Pillow resizes without rounding."""
    channels = (Image.fromarray(pixels[..., index].astype(np.float32)) for index in range(pixels.shape[2]))
    large = np.stack([np.asarray(resized(channel, size)) for channel in channels], axis=2)
    return np.clip(np.rint(large), 0, 65535).astype(np.uint16)


def check_side(size: tuple[int, int], path: Path) -> None:
    """UserError where a format takes no picture of this (height, width); before it is made."""
    suffix = path.suffix.lower()
    most = MOST_SIDE.get(suffix, max(size))
    if max(size) > most:
        raise UserError(
            f"{path}: {size[1]}×{size[0]} pixels",
            f"{suffix} takes at most {most} a side",
            "write .png: --format png",
        )


def check_output(path: Path) -> None:
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{path}: cannot write {path.suffix or 'no suffix'}", f"expected {', '.join(WRITABLE)}")


def save_image(
    image: Image.Image,
    path: Path,
    source: Picture | None = None,
    quality: int = 95,
    background: Colour = WHITE,
    deep: np.ndarray | None = None,
) -> None:
    """Write PNG, JPEG or WebP under a temporary name, then rename.

    source: whose alpha, greyness and metadata go along, as far as the format holds them. background: what JPEG
    shows instead of transparency. deep: the same picture in 16 bits, uint16 [H, W, 3], which PNG takes.
    """
    check_output(path)
    suffix = path.suffix.lower()
    written = Written("RGB") if source is None else as_written(source, path, background)
    options = {**written.options, **({"quality": quality} if suffix != ".png" else {})}
    form = {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
    pixels = None
    if deep is not None and source is not None and suffix == ".png":
        pixels = _deep_pixels(deep, source)
    elif source is not None:
        image = _pixels(image, source, written)
    with _replacing(path, suffix) as file:
        if pixels is None:
            image.save(file, format=form, **options)
        else:
            write_deep(pixels, file, **options)


@contextmanager
def _replacing(path: Path, suffix: str) -> Iterator[IO[bytes]]:
    """A file under a temporary name, renamed when it is whole. UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix(), suffix=suffix, dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})", "expected a writable folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})", "expected room there") from None
    except ValueError as error:  # a format's own limits
        reason = f"{path}: cannot be written ({error})"
        raise UserError(reason, "expected a size that the format takes", "write .png") from None
    finally:
        Path(name).unlink(missing_ok=True)


def _pixels(image: Image.Image, source: Picture, written: Written) -> Image.Image:
    """A result as it is written: grey, with alpha, or laid over a background."""
    image = image.convert("L" if source.grey else "RGB")
    if source.alpha is None:
        return image
    alpha = source.alpha.resize(image.size, Image.Resampling.BICUBIC)
    if written.background is not None:
        return laid_over(image.convert(written.mode), alpha, written.background)
    image = image.convert(written.mode)
    image.putalpha(alpha)
    return image


def _deep_pixels(deep: np.ndarray, source: Picture) -> np.ndarray:
    """The same in 16 bits: uint16 [H, W, 1 to 4]."""
    if source.grey:  # Pillow's weights
        deep = np.rint(deep @ np.array([0.299, 0.587, 0.114], np.float32))[..., None].astype(np.uint16)
    if source.deep is None or source.deep.shape[2] < 4:
        return deep
    alpha = Image.fromarray(source.deep[..., 3].astype(np.float32))
    large = np.asarray(alpha.resize((deep.shape[1], deep.shape[0]), Image.Resampling.BICUBIC))
    return np.concatenate([deep, np.clip(np.rint(large), 0, 65535).astype(np.uint16)[..., None]], axis=2)


@dataclass
class Written:
    """mode: of the file; options: Pillow's; notes: what the format cannot hold.

    background: what transparency is laid over, None where alpha is kept or there is none.
    """

    mode: str
    background: Colour | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def as_written(picture: Picture, path: Path, background: Colour = WHITE) -> Written:
    """How `picture`'s result is written to `path`: PNG keeps all, JPEG and WebP what they can hold."""
    suffix = path.suffix.lower()
    alpha, grey = picture.alpha, picture.grey
    result = Written("L" if grey else "RGB")
    if alpha is not None and suffix not in JPEG:
        result.mode = "LA" if grey and suffix == ".png" else "RGBA"
    elif alpha is not None:
        result.background = background
        if grey and len(set(background)) > 1:
            result.mode = "RGB"
        if not is_opaque(alpha):
            result.notes.append(f"transparency laid over #{bytes(background).hex()}: JPEG has none")
    if picture.deep is not None and suffix != ".png":
        result.notes.append("16 bits a channel reduced to 8: PNG keeps them")
    _add_metadata(result, picture, suffix)
    return result


def _add_metadata(result: Written, picture: Picture, suffix: str) -> None:
    found, options, notes = picture.metadata, result.options, result.notes
    grey = result.mode in ("L", "LA") and suffix != ".webp"
    if picture.icc:
        if len(picture.icc) <= 128 or picture.icc[16:20] == (b"GRAY" if grey else b"RGB "):
            options["icc_profile"] = picture.icc
        else:
            notes.append("a colour profile of other channels left out")
    if found.exif:
        options["exif"] = found.exif
    if found.dpi and suffix != ".webp":
        options["dpi"] = found.dpi
    if suffix == ".png":
        options["pnginfo"] = _png_info(picture)
        return
    if found.xmp and (suffix == ".webp" or len(found.xmp) <= MOST_JPEG_XMP):
        options["xmp"] = found.xmp
    elif found.xmp:
        notes.append("XMP left out: too long for JPEG")
    texts = dict(found.texts)
    comment = texts.get("Comment", "").encode()
    if suffix in JPEG and 0 < len(comment) <= MOST_JPEG_COMMENT:
        options["comment"] = comment
        del texts["Comment"]
    if texts:
        notes.append(f"{len(texts)} text{'s' * (len(texts) > 1)} left out: PNG keeps them")
    if found.wide:
        coded = any(name == b"cICP" for name, _ in found.chunks)
        what = "coding of colours (cICP)" if coded else "primaries (cHRM)"
        notes.append(f"{what} left out: PNG keeps {'it' if coded else 'them'}")


def _png_info(picture: Picture) -> PngInfo:
    info = PngInfo()
    for kind, data in picture.metadata.chunks:
        info.add(kind, data)
    for key, text in picture.metadata.texts.items():
        info.add_text(key, text)
    if picture.metadata.xmp:
        info.add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.metadata.xmp)
    return info


def is_opaque(alpha: Image.Image) -> bool:
    """Of an 8-bit alpha."""
    return alpha.getextrema() == (255, 255)


def laid_over(image: Image.Image, alpha: Image.Image, background: Colour) -> Image.Image:
    """An L or RGB image over one colour, by alpha of its size."""
    colour = background if image.mode == "RGB" else background[0]
    return Image.composite(image, Image.new(image.mode, image.size, colour), alpha)


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
