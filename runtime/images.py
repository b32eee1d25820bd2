"""Images in and out: what is read is said, what is kept is kept, what is refused has one line.

Pixels are RGB float32 [3, H, W] in [-1, 1] inside; files are 8 bits. Alpha is upscaled beside the colours,
grey stays grey, the ICC profile and EXIF travel along, EXIF orientation is applied.
engines/bundle/pictures.py reads.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.picture_files import list_images
from passionsr_trt.engines.bundle.pictures import (
    MAX_PIXELS,
    MIN_SIDE,
    SUFFIXES,
    Picture,
    chain_sources,
    header_size,
    opened,
    read_picture,
    to_array,
    upscale,
)
from passionsr_trt.engines.bundle.temporaries import prefix
from PIL import Image

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "SUFFIXES",
    "WRITABLE",
    "Picture",
    "chain_sources",
    "check_output",
    "header_size",
    "list_images",
    "opened",
    "read_picture",
    "save_image",
    "to_array",
    "to_image",
    "upscale",
]

WRITABLE = (".png", ".jpg", ".jpeg", ".webp")


def to_image(array: np.ndarray) -> Image.Image:
    """[3, H, W] in [-1, 1] → 8-bit RGB; clamps, then rounds to nearest."""
    pixels = array + np.float32(1.0)
    pixels *= 127.5
    np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels)
    return Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0))


def check_output(path: Path) -> None:
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{path}: cannot write {path.suffix or 'no suffix'}", f"expected {', '.join(WRITABLE)}")


def save_image(image: Image.Image, path: Path, source: Picture | None = None, quality: int = 95) -> None:
    """Write PNG, JPEG or WebP under a temporary name, then rename. Alpha is dropped for JPEG only."""
    check_output(path)
    suffix = path.suffix.lower()
    options: dict[str, Any] = {"quality": quality} if suffix != ".png" else {}
    if source is not None:
        if source.grey:
            image = image.convert("L")
        if source.alpha is not None and suffix not in (".jpg", ".jpeg"):
            image = image.convert("LA" if source.grey and suffix == ".png" else "RGBA")
            image.putalpha(source.alpha.resize(image.size, Image.Resampling.BICUBIC))
        if source.icc:
            options["icc_profile"] = source.icc
        if source.exif:
            options["exif"] = source.exif
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix(), suffix=suffix, dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})", "expected a writable folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format={".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG"), **options)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})", "expected room there") from None
    except ValueError as error:  # a format's own limits
        reason = f"{path}: cannot be written ({error})"
        raise UserError(reason, "expected a size that the format takes", "write .png") from None
    finally:
        Path(name).unlink(missing_ok=True)
