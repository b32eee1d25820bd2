"""Images in and out: what is read is said, what is kept is kept, what is refused has one line.

Pixels are RGB float32 [3, H, W] in [-1, 1] inside; files are 8 bits. Alpha is upscaled beside the colours,
grey stays grey, the ICC profile travels along, EXIF orientation is applied.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.errors import UserError
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp")
MIN_SIDE = 8
MAX_PIXELS = 64_000_000


@dataclass
class Picture:
    """One input: `rgb` is an 8-bit RGB image, `alpha` an 8-bit L image or None."""

    rgb: Image.Image
    alpha: Image.Image | None
    grey: bool
    icc: bytes | None
    notes: list[str] = field(default_factory=list)


def list_images(inputs: list[Path]) -> list[Path]:
    """Files as given (a missing one fails when it is read); folders give their images, sorted by name."""
    paths: list[Path] = []
    for item in inputs:
        if item.is_dir():
            found = sorted(path for path in item.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
            if not found:
                raise UserError(f"{item}: holds no image", f"expected {', '.join(SUFFIXES)}")
            paths += found
        else:
            paths.append(item)
    return paths


def read_picture(path: Path) -> Picture:
    """Decode an image; UserError for anything that is not one, is too small or too large."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: 0 bytes", "expected an image")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: {width}×{height} pixels",
                        f"expected at most {MAX_PIXELS / 1e6:.0f} megapixels",
                        "crop or shrink it first",
                    )
                if min(width, height) < MIN_SIDE:
                    raise UserError(
                        f"{path}: {width}×{height} pixels", f"expected at least {MIN_SIDE} on each side"
                    )
                image.load()
                return _to_picture(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "expected an image or a folder of images") from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path}: too many pixels", f"expected at most {MAX_PIXELS / 1e6:.0f} megapixels"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that Pillow can read", f"expected {', '.join(SUFFIXES)}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be decoded ({error})", "expected a whole image") from None


def _to_picture(image: Image.Image) -> Picture:
    notes: list[str] = []
    icc = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        top = 1.0 if image.mode == "F" and values.max() <= 1.0 else 65535.0
        image = Image.fromarray(np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8))
        notes.append("16-bit input reduced to 8 bits")
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA", "PA") else None
    grey = image.mode in ("L", "LA", "1")
    if image.mode == "CMYK":
        icc = None
        notes.append("CMYK converted to RGB")
    return Picture(image.convert("RGB"), alpha, grey, icc, notes)


def upscale(image: Image.Image, factor: int) -> Image.Image:
    """Bicubic enlargement of an 8-bit image, as the model saw it in training."""
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> np.ndarray:
    """8-bit RGB → [3, H, W] float32 in [-1, 1]."""
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0


def to_image(array: np.ndarray) -> Image.Image:
    """[3, H, W] in [-1, 1] → 8-bit RGB; clamps, then rounds to nearest."""
    pixels = array + np.float32(1.0)
    pixels *= 127.5
    np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels)
    return Image.fromarray(pixels.astype(np.uint8).transpose(1, 2, 0))


def pad_to_multiple(array: np.ndarray, multiple: int, least: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Reflect [C, H, W] on the bottom and right until both sides are multiples, and at least `least`."""
    missing = [
        max(-(-side // multiple) * multiple, low) - side for side, low in zip(array.shape[1:], least, strict=True)
    ]
    return np.pad(array, ((0, 0), (0, missing[0]), (0, missing[1])), mode="reflect") if any(missing) else array


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=suffix, dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})", "expected a writable folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format={".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG"), **options)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror or error})", "expected room there") from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
