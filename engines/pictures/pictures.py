"""Reading pictures, for the runtime and for calibration alike: what a model is calibrated on is what it will see.

Pixels are RGB float32 [3, H, W] in [-1, 1]; orientation is applied, of several frames the first is read. What is
kept beside the pixels, and what is left out and said: docs/bad-input.md#formats-and-metadata.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.wiring import NOISE, Size, Wired, chain_multiple, sources_of
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.files import READABLE, advice, formats_for, marked
from passionsr_trt.engines.pictures.metadata import Metadata, coding_of, drop_strangers, metadata_of
from passionsr_trt.engines.pictures.pixels import (
    CONVERTED,
    Pixels,
    eight_bits,
    joined,
    low_bytes,
    rawmode,
    significant_gamma,
    sixteen_bits,
    stored_bits,
    whole_numbers,
)
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

MOST_FRAMES = 1000  # that are counted
COUNTED_GIF = 8 << 20  # bytes of a GIF whose frames are counted: it takes all of the file
FRAME_WORDS = {"TIFF": "pages", "MPO": "pictures"}


def frames_note(image: Image.Image, path: Path) -> list[str]:
    """A note where a file holds more than its first frame, else none. image: opened for this alone."""
    count = 1
    with suppress(Exception):  # the first one may be whole, whatever comes after it
        if image.format == "GIF" and path.stat().st_size > COUNTED_GIF:
            return ["the first of several frames"] if getattr(image, "is_animated", False) else []
        if image.format != "TIFF":
            count = getattr(image, "n_frames", 1)
        else:  # a page is a place in the file, so that a small file may have any number
            while count <= MOST_FRAMES:
                image.seek(count)
                count += 1
    some = f"more than {MOST_FRAMES}" if count > MOST_FRAMES else count
    return [f"1 of {some} {FRAME_WORDS.get(image.format or '', 'frames')}"] if count > 1 else []


MIN_SIDE = 8
MOST_ICC = 1 << 20  # bytes: what a PNG reader takes
MAX_PIXELS = 64_000_000


@dataclass
class Picture:
    """One input: `rgb` is an 8-bit RGB image, `alpha` an 8-bit L image or None.

    Where `alpha` is 0, `rgb` holds the colours around, whatever the file held.
    deep: where the file has more than 8 bits a channel, both in 16: uint16 [H, W, 3 or 4].
    """

    rgb: Image.Image
    alpha: Image.Image | None
    grey: bool
    icc: bytes | None
    notes: list[str] = field(default_factory=list)
    metadata: Metadata = field(default_factory=Metadata)
    deep: np.ndarray | None = None

    @property
    def given(self) -> Image.Image | np.ndarray:
        """What a model is given: `rgb`, or of deep pictures float32 [3, H, W] in [-1, 1]."""
        if self.deep is None:
            return self.rgb
        return self.deep[..., :3].transpose(2, 0, 1).astype(np.float32) / 32767.5 - 1.0


def header_size(path: Path) -> Size:
    """(height, width) as it will be read, from the header alone; (0, 0) for what is no picture."""
    try:
        with opened(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            if image.format == "TIFF" and width == image.tag_v2.get(257):  # type: ignore[attr-defined]
                turned = False  # Pillow has turned it already
    except Exception:  # whatever it is will be told when the picture is read
        return 0, 0
    return (width, height) if turned else (height, width)


def read_picture(path: Path) -> Picture:
    """Decode an image; UserError for anything that is not one, is too small or too large.

    A damaged file may raise anything in Pillow's decoders: whatever it is becomes this picture's one line.
    """
    try:
        with opened(path) as image:
            check_size(image, path)
            with opened(path) as other:
                notes = frames_note(other, path)
            pixels = _pixels(image, path, notes)
            icc = _kept_icc(image, notes)
            metadata = metadata_of(image, notes)
            return Picture(pixels.rgb, pixels.alpha, pixels.grey, icc, notes, metadata, pixels.deep)
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:  # from the header alone
        limit = f"expected at most {MAX_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{path}: far too many pixels", limit, "crop or shrink it first") from None
    except UnidentifiedImageError:
        if kind := marked(path):
            reason = f"{path}: a {kind} that is damaged, or of a kind that cannot be read"
            raise UserError(reason, "expected a whole one", "save it anew, as PNG") from None
        expected = f"expected {', '.join(READABLE)}"
        raise UserError(f"{path}: not an image that can be read", expected, advice(path)) from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # the system's; Pillow's own have none
            raise UserError(f"{path}: cannot be read ({error.strerror})", "expected an image") from None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be decoded ({reason})", "expected a whole image") from None


def check_size(image: Image.Image, path: Path) -> None:
    """UserError for too many pixels, or too few on a side."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: {width}×{height} pixels",
            f"expected at most {MAX_PIXELS / 1e6:.0f} megapixels",
            "crop or shrink it first",
        )
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: {width}×{height} pixels", f"expected at least {MIN_SIDE} on each side")


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
        with Image.open(path, formats=formats_for(path)) as image:
            if image.format == "TIFF":  # else Pillow maps it into memory, and a turned one with its sides swapped
                image.filename = ""
            yield image


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, where that can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged tag turns nothing
        return image


def _white_is_zero(image: Image.Image) -> bool:
    """Is this a deep TIFF that Pillow does not turn round, as it does those of 8 bits?"""
    deep = image.format == "TIFF" and image.mode.startswith("I;16")
    return deep and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]


def _scale_key(image: Image.Image, raw: str) -> None:
    """A PNG's colour that stands for nothing is of as many bits as its pixels; Pillow makes 8 of those alone."""
    bits = {"L;2": 2, "L;4": 4}.get(raw) if image.format == "PNG" else None
    if bits and isinstance(key := image.info.get("transparency"), int):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def _pixels(image: Image.Image, path: Path, notes: list[str]) -> Pixels:
    """Load it: upright, in 16 bits where they can be had."""
    raw, bits, white_is_zero, low = rawmode(image), stored_bits(image, path), _white_is_zero(image), None
    _scale_key(image, raw)
    if ";16" in raw:
        with opened(path) as again:
            low = low_bytes(image, again, path)
    if image.info.get("icc_profile", b"") is None:
        notes.append("a damaged colour profile left out")
    drop_strangers(image)
    image.load()
    drop_strangers(image)
    if image.format == "PNG" and (coded := coding_of(path)):
        image.info["cicp"] = coded
    key, gamma = image.info.get("transparency"), significant_gamma(image.info)
    upright = _upright(image)
    deep = None
    if image.mode.startswith("I") or image.mode == "F":
        deep = whole_numbers(upright, path)
        deep = 65535 - deep if white_is_zero else deep
    elif low is not None:
        deep = joined(upright, _upright(low), raw)
    if deep is not None:
        pixels = sixteen_bits(deep, key, gamma)
    else:
        if bits > 8:
            notes.append(f"{bits} bits a channel reduced to 8")
        pixels = eight_bits(upright, gamma)
    if image.mode in CONVERTED:
        notes.append(f"{image.mode} converted to RGB")
    if pixels.alpha is not None and pixels.alpha.getextrema()[1] == 0:
        notes.append("nothing to see: all of it is transparent")
    return pixels


def _kept_icc(image: Image.Image, notes: list[str]) -> bytes | None:
    """The profile where it is of the result's channels, and not longer than a PNG reader takes."""
    icc = image.info.get("icc_profile")
    if icc is None or image.mode in CONVERTED:
        return None
    if len(icc) > MOST_ICC:
        notes.append("a colour profile of more than 1 MB left out")
        return None
    return bytes(icc)


def upscale(image: Image.Image, factor: int) -> Image.Image:
    """Bicubic enlargement of an image, as the model saw it in training; of mode F without rounding."""
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def upscale_deep(array: np.ndarray, factor: int) -> np.ndarray:
    """The same of float32 [3, H, W] in [-1, 1]."""
    channels = [np.asarray(upscale(Image.fromarray(channel), factor)) for channel in array]
    return np.clip(np.stack(channels), -1.0, 1.0)


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """8-bit RGB → [3, H, W] float32 in [-1, 1]; an array of that is returned as it is."""
    if isinstance(image, np.ndarray):
        return image
    array = np.array(image, dtype=np.float32).transpose(2, 0, 1)
    array /= 127.5  # in place: an enlarged photo takes gigabytes
    array -= 1.0
    return array


def pad_to_multiple(array: np.ndarray, multiple: int, least: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Reflect [C, H, W] on the bottom and right until both sides are multiples, and at least `least`."""
    missing = [
        max(-(-side // multiple) * multiple, low) - side for side, low in zip(array.shape[1:], least, strict=True)
    ]
    return np.pad(array, ((0, 0), (0, missing[0]), (0, missing[1])), mode="reflect") if any(missing) else array


def chain_sources(
    rgb: Image.Image | np.ndarray,
    enlarged: np.ndarray,
    parts: Sequence[Wired],
    seed: int | None,
    least: Size = (0, 0),
) -> dict[str, np.ndarray]:
    """The sources of a chain for one picture, [1, C, H, W] float32, mirrored out to its multiple.

    enlarged: `rgb` ×upscale as an array [3, H, W]; seed: of the noise, None for 0; least: sides in output pixels.
    """
    multiple = chain_multiple(parts)
    height, width = (
        max(-(-side // multiple) * multiple, low) for side, low in zip(enlarged.shape[1:], least, strict=True)
    )
    made = {}
    for tensor in sources_of(parts).values():
        shape = tensor.at((height, width))
        if tensor.name == "image":
            made[tensor.name] = pad_to_multiple(enlarged, multiple, least)[None]
        elif tensor.name == "lr":
            small = to_array(rgb)
            missing = [(0, wanted - side) for wanted, side in zip(shape[2:], small.shape[1:], strict=True)]
            made[tensor.name] = np.pad(small, [(0, 0), *missing], mode="reflect")[None]
        else:
            made[tensor.name] = np.zeros(shape, np.float32) if seed is None else noise(seed, shape, tensor.name)
    return made


def noise(seed: int, shape: tuple[int, ...], name: str = NOISE) -> np.ndarray:
    """Seeded normals, float32: equal seeds, shapes and names give equal noise on every backend.

    `noise` itself is of the seed alone; of other names each has numbers of its own.
    """
    own = () if name == NOISE else name.encode()
    return np.random.default_rng([seed, *own] if own else seed).standard_normal(shape, dtype=np.float32)
