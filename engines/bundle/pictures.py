"""Reading pictures, for the runtime and for calibration alike: what a model is calibrated on is what it will see.

Pixels are RGB float32 [3, H, W] in [-1, 1]; EXIF orientation is applied, what else EXIF says is kept. 16 bits and
floats from 0 to 1 are reduced to 8.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.exif import without_geometry
from passionsr_trt.engines.bundle.wiring import Size, Wired, chain_multiple, sources_of
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MIN_SIDE = 8
MOST_ICC = 1 << 20  # bytes: what a PNG reader takes
WITH_EXIF = ("PNG", "JPEG", "WEBP")  # a TIFF's tags describe its own pixels
MAX_PIXELS = 64_000_000


@dataclass
class Picture:
    """One input: `rgb` is an 8-bit RGB image, `alpha` an 8-bit L image or None, `exif` as it is to be written."""

    rgb: Image.Image
    alpha: Image.Image | None
    grey: bool
    icc: bytes | None
    notes: list[str] = field(default_factory=list)
    exif: bytes | None = None


def header_size(path: Path) -> Size:
    """(height, width) as it will be read, from the header alone; (0, 0) for what is no picture."""
    try:
        with opened(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # whatever it is will be told when the picture is read
        return 0, 0
    return (width, height) if turned else (height, width)


def read_picture(path: Path) -> Picture:
    """Decode an image; UserError for anything that is not one, is too small or too large.

    A damaged file may raise anything in Pillow's decoders: whatever it is becomes this picture's one line.
    """
    try:
        with opened(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {width}×{height} pixels",
                    f"expected at most {MAX_PIXELS / 1e6:.0f} megapixels",
                    "crop or shrink it first",
                )
            if min(width, height) < MIN_SIDE:
                raise UserError(f"{path}: {width}×{height} pixels", f"expected at least {MIN_SIDE} on each side")
            image.load()
            picture = _to_picture(_upright(image), path)
            if image.format in WITH_EXIF:
                picture.exif = _kept_exif(image.info.get("exif"), picture.notes)
            return picture
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:  # from the header alone
        limit = f"expected at most {MAX_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{path}: far too many pixels", limit, "crop or shrink it first") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be read", f"expected {', '.join(SUFFIXES)}") from None
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be decoded ({reason})", "expected a whole image") from None


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header was read; only the formats that are promised, only from plain files."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "expected an image or a folder of images") from None
    except OSError as error:  # a loop of links, a name that is too long
        raise UserError(f"{path}: cannot be read ({error.strerror})", "expected an image") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is no file", "expected an image")
    if status.st_size == 0:
        raise UserError(f"{path}: 0 bytes", "expected an image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            yield image


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, where that can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged tag turns nothing
        return image


def _kept_exif(exif: object, notes: list[str]) -> bytes | None:
    """What goes along of a file's EXIF; what cannot is noted."""
    if not isinstance(exif, bytes) or not exif:
        return None
    try:
        return without_geometry(exif)
    except ValueError as error:
        notes.append(f"EXIF left out ({error})")
        return None


def _to_picture(image: Image.Image, path: Path) -> Picture:
    notes: list[str] = []
    icc = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image, path)
        notes.append("more than 8 bits a channel reduced to 8")
    if "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("L", "1") else "RGBA")
    if image.mode == "P":
        image = image.convert("RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA", "PA") else None
    grey = image.mode in ("L", "LA", "1")
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        icc = None  # it is of other channels than the result's
        notes.append(f"{image.mode} converted to RGB")
    if icc is not None and len(icc) > MOST_ICC:
        icc = None
        notes.append("a colour profile of more than 1 MB left out")
    return Picture(image.convert("RGB"), alpha, grey, icc, notes)


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """Whole numbers to 65535 and floats from 0 to 1 as 8 bits; UserError where their range may mean anything."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        kind, low, high = "floats" if image.mode == "F" else "whole numbers", values.min(), values.max()
        raise UserError(
            f"{path}: {kind} from {low:g} to {high:g}", f"expected 0 to {top:g}", "convert it to 8 or 16 bits"
        )
    return Image.fromarray(np.rint(values / top * 255).astype(np.uint8))


def upscale(image: Image.Image, factor: int) -> Image.Image:
    """Bicubic enlargement of an 8-bit image, as the model saw it in training."""
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> np.ndarray:
    """8-bit RGB → [3, H, W] float32 in [-1, 1]."""
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0


def pad_to_multiple(array: np.ndarray, multiple: int, least: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Reflect [C, H, W] on the bottom and right until both sides are multiples, and at least `least`."""
    missing = [
        max(-(-side // multiple) * multiple, low) - side for side, low in zip(array.shape[1:], least, strict=True)
    ]
    return np.pad(array, ((0, 0), (0, missing[0]), (0, missing[1])), mode="reflect") if any(missing) else array


def chain_sources(
    rgb: Image.Image, enlarged: np.ndarray, parts: Sequence[Wired], seed: int | None, least: Size = (0, 0)
) -> dict[str, np.ndarray]:
    """The sources of a chain for one picture, [1, C, H, W] float32, mirrored out to its multiple.

    enlarged: `rgb` ×upscale as an array [3, H, W]; seed: of the noise, None for 0; least: sides in output pixels.
    """
    padded = pad_to_multiple(enlarged, chain_multiple(parts), least)
    size = (padded.shape[1], padded.shape[2])
    made = {}
    for tensor in sources_of(parts).values():
        shape = tensor.at(size)
        if tensor.name == "image":
            made[tensor.name] = padded[None]
        elif tensor.name == "lr":
            small = to_array(rgb)
            missing = [(0, wanted - side) for wanted, side in zip(shape[2:], small.shape[1:], strict=True)]
            made[tensor.name] = np.pad(small, [(0, 0), *missing], mode="reflect")[None]
        else:
            made[tensor.name] = np.zeros(shape, np.float32) if seed is None else noise(seed, shape)
    return made


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Seeded normals, float32: equal seeds and shapes give equal noise on every backend."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
