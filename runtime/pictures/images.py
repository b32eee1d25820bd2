"""Images in and out: what is read is said, what is kept is kept, what is refused has one line.

Pixels are RGB float32 [3, H, W] in [-1, 1] inside; files are 8 bits, or 16 where the input has more than 8 and a
PNG is written. Alpha is enlarged beside the colours (bicubic), grey stays grey. engines/pictures reads;
written.py says what goes along.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import prefix
from passionsr_trt.engines.pictures.files import list_images
from passionsr_trt.engines.pictures.pictures import (
    MAX_PIXELS,
    MIN_SIDE,
    Picture,
    chain_sources,
    header_size,
    opened,
    read_picture,
    to_array,
    upscale,
    upscale_deep,
)
from passionsr_trt.runtime.pictures.deep_png import write_deep
from passionsr_trt.runtime.pictures.written import WHITE, Colour, Written, as_written, laid_over
from PIL import Image

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
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
    "to_deep",
    "to_image",
    "upscale",
    "upscale_deep",
]

WRITABLE = (".png", ".jpg", ".jpeg", ".webp")


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix(), suffix=suffix, dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})", "expected a writable folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            if pixels is None:
                image.save(file, format=form, **options)
            else:
                write_deep(pixels, file, **options)
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
