"""A clip's colours: what its numbers mean, how they become RGB, and how RGB becomes such numbers again.

ITU-T H.273 numbers matrices, primaries and transfers. R'G'B' in [0, 1] is Y' = kr R' + (1 - kr - kb) G' + kb B',
Cb = (B' - Y') / (2 - 2 kb), Cr = (R' - Y') / (2 - 2 kr); of n bits, with k = 2^(n-8):

| range   | Y'          | Cb, Cr         |
| ------- | ----------- | -------------- |
| limited | 219 Y' + 16 | 224 C + 128, both times k |
| full    | (2^n - 1) Y' | (2^n - 1) C + 128 k |

Computed here, in float: swscale is half a code too dark on the way from and to 16-bit RGB, and rounds chroma of
full range down. It does what is left: chroma's size and the order of bytes. Primaries and transfer are kept as
they are named: a model sees R'G'B' as it is coded, in HDR too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.pictures import to_array
from passionsr_trt.runtime.core.upscaler import Given, SRResult
from PIL import Image

RGB, BT709, UNNAMED, BT601, BT2020 = 0, 1, 2, 6, 9
LIMITED, FULL = 1, 2
WEIGHTS = {  # matrix: kr, kb
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    BT601: (0.299, 0.114),
    7: (0.212, 0.087),
    BT2020: (0.2627, 0.0593),
}
NAMES = {BT709: "BT.709", 4: "FCC", 5: "BT.601", BT601: "BT.601", 7: "SMPTE 240M", BT2020: "BT.2020"}
HDR = {16: "PQ", 18: "HLG"}  # by transfer
CHROMA = Interpolation.BICUBIC


@dataclass(frozen=True)
class Colours:
    """matrix, primaries, transfer: H.273's numbers, 2 for none named; full: not limited range; bits: of a channel.

    guessed: the clip names no matrix.
    """

    matrix: int
    full: bool
    primaries: int
    transfer: int
    bits: int
    guessed: bool = False

    def __str__(self) -> str:
        """`BT.709 limited, 10 bits`."""
        name = NAMES[self.matrix] + (" by its size" if self.guessed else "")
        hdr = f" {HDR[self.transfer]}" if self.transfer in HDR else ""
        return f"{name}{hdr} {'full' if self.full else 'limited'}, {self.bits} bits"


def colours_of(frame: av.VideoFrame) -> Colours:
    """A frame's; where it names no matrix BT.709, or for standard definition BT.601, as players do. RGB becomes
    BT.709. UserError for a coding that is not known here.
    """
    form, matrix = frame.format, int(frame.colorspace)
    bits = _depth(form)
    small = frame.width < 1280 and frame.height <= 576
    is_rgb = form.is_rgb or form.has_palette
    guessed = matrix == UNNAMED and not is_rgb
    if is_rgb or guessed:
        matrix = BT601 if guessed and small else BT709
    if matrix not in WEIGHTS or form.is_bayer:
        fact = f"colours of the matrix {matrix} (H.273), pixels {form.name}"
        raise UserError(fact, f"expected RGB or {', '.join(dict.fromkeys(NAMES.values()))}")
    full = int(frame.color_range) == FULL or form.name.startswith("yuvj")
    full = full or (form.name.startswith("gray") and int(frame.color_range) != LIMITED)
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    return Colours(matrix, full and not is_rgb, primaries, transfer, bits, guessed)


def has_alpha(frame: av.VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def to_rgb(frame: av.VideoFrame, colours: Colours, size: tuple[int, int]) -> np.ndarray:
    """A frame as float32 [3, H, W] in [0, 1]. size: (height, width) that it is brought to, its own as a rule."""
    form = frame.format
    is_rgb = form.is_rgb or form.has_palette
    deep = "" if colours.bits == 8 else f"{colours.bits}le"
    kept = FULL if colours.full or is_rgb else LIMITED
    matrix = BT709 if is_rgb else colours.matrix
    whole = frame.reformat(
        width=size[1],
        height=size[0],
        format=f"{'gbrp' if is_rgb else 'yuv444p'}{deep}",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=kept,
        dst_color_range=kept,
        interpolation=CHROMA,
    )
    planes = np.stack([_plane(whole, index) for index in range(3)]).astype(np.float32)
    if is_rgb:
        return planes[[2, 0, 1]] / np.float32(2**colours.bits - 1)
    luma, chroma, black, middle = _steps(colours.full, colours.bits)
    planes[0] = (planes[0] - black) / luma
    planes[1:] = (planes[1:] - middle) / chroma
    rgb = _times(np.linalg.inv(_matrix(colours.matrix)), planes)
    return np.clip(rgb, 0.0, 1.0, out=rgb)


def given_of(rgb: np.ndarray, bits: int) -> Given:
    """What a chain is given: 8-bit RGB, or of more bits float32 [3, H, W] in [-1, 1]."""
    if bits > 8:
        return rgb * np.float32(2.0) - np.float32(1.0)
    return Image.fromarray(np.ascontiguousarray(np.rint(rgb * 255).astype(np.uint8).transpose(1, 2, 0)))


def rgb_of(result: SRResult) -> np.ndarray:
    """A result as float32 [3, H, W] in [0, 1]."""
    if result.deep is not None:
        return result.deep.transpose(2, 0, 1).astype(np.float32) / np.float32(65535)
    return (to_array(result.image) + np.float32(1.0)) / np.float32(2.0)


def to_frame(rgb: np.ndarray, colours: Colours, pixel_format: str) -> av.VideoFrame:
    """float32 [3, H, W] in [0, 1] as a frame in `pixel_format`. Sides that it takes even only are filled up."""
    wanted = av.VideoFormat(pixel_format)
    bits = _depth(wanted)
    missing = [side % step for side, step in zip(rgb.shape[1:], steps_of(pixel_format), strict=True)]
    rgb = np.pad(rgb, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else rgb
    deep, kept = "" if bits == 8 else f"{bits}le", FULL if colours.full or wanted.is_rgb else LIMITED
    if wanted.is_rgb:
        planes = rgb[[1, 2, 0]] * np.float32(2**bits - 1)
    else:
        planes = _times(_matrix(colours.matrix), rgb)
        luma, chroma, black, middle = _steps(colours.full, bits)
        planes[0] = planes[0] * luma + black
        planes[1:] = planes[1:] * chroma + middle
    codes = np.clip(np.rint(planes, out=planes), 0, 2**bits - 1, out=planes)
    whole = av.VideoFrame(rgb.shape[2], rgb.shape[1], f"{'gbrp' if wanted.is_rgb else 'yuv444p'}{deep}")
    for index, plane in enumerate(codes.astype(np.uint8 if bits == 8 else np.dtype("<u2"))):
        _plane(whole, index)[...] = plane
    matrix = BT709 if wanted.is_rgb else colours.matrix
    frame = whole.reformat(
        format=pixel_format,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=kept,
        dst_color_range=kept,
        interpolation=CHROMA,
    )
    frame.colorspace, frame.color_range = RGB if wanted.is_rgb else matrix, kept
    frame.color_primaries, frame.color_trc = colours.primaries, colours.transfer
    return frame


def steps_of(pixel_format: str) -> tuple[int, int]:
    """(rows, columns) of which a frame's sides are multiples: 2 where chroma is of half the size."""
    wanted = av.VideoFormat(pixel_format)
    return (2 // wanted.chroma_height(2) or 1, 2 // wanted.chroma_width(2) or 1)


def _depth(form: av.VideoFormat) -> int:
    """Bits a channel, of those that planes come in."""
    most = max(component.bits for component in form.components)
    return next((bits for bits in (8, 9, 10, 12, 14) if most <= bits), 16)


def _plane(frame: av.VideoFrame, index: int) -> np.ndarray:
    """A plane's codes [H, W], to be read and written."""
    plane: Any = frame.planes[index]
    kind = np.dtype(np.uint8 if frame.format.components[0].bits == 8 else "<u2")
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width * kind.itemsize].view(kind)


def _matrix(number: int) -> np.ndarray:
    """R'G'B' → Y', Cb, Cr."""
    kr, kb = WEIGHTS[number]
    luma = np.array([kr, 1 - kr - kb, kb])
    blue, red = np.array([0, 0, 1.0]) - luma, np.array([1.0, 0, 0]) - luma
    return np.stack([luma, blue / (2 - 2 * kb), red / (2 - 2 * kr)])


def _times(matrix: np.ndarray, planes: np.ndarray) -> np.ndarray:
    return (matrix.astype(np.float32) @ planes.reshape(3, -1)).reshape(planes.shape)


def _steps(full: bool, bits: int) -> tuple[float, float, float, float]:
    """Codes from black to white, of chroma's whole width; black, and chroma's middle."""
    unit = 2.0 ** (bits - 8)
    if full:
        return 2.0**bits - 1, 2.0**bits - 1, 0.0, 128 * unit
    return 219 * unit, 224 * unit, 16 * unit, 128 * unit
