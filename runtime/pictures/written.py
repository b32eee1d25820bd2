"""What becomes of a picture in the format that it is written in: what goes along, what is left out and said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from passionsr_trt.engines.pictures.pictures import Picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
JPEG = (".jpg", ".jpeg")
MOST_JPEG_XMP = 65_504  # bytes, what Pillow writes
MOST_JPEG_COMMENT = 65_533


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
