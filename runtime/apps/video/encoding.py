"""How a clip is coded: which encoder, in which pixel format, how well; and one segment's file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream
from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.pictures.files import suffix_of
from passionsr_trt.runtime.apps.video.colours import FULL, LIMITED, RGB, Colours, to_frame
from passionsr_trt.runtime.apps.video.options import ClipOptions
from passionsr_trt.runtime.apps.video.reading import said

# encoder: (its option that --quality sets, what it is by default, its other options)
SETTINGS: dict[str, tuple[str, int, dict[str, str]]] = {
    "libx264": ("crf", 17, {}),
    "libx265": ("crf", 19, {"x265-params": "log-level=none"}),
    "libsvtav1": ("crf", 24, {"preset": "6"}),
    "libvpx-vp9": ("crf", 24, {"b": "0", "row-mt": "1"}),
    "h264_nvenc": ("cq", 19, {"rc": "vbr", "b": "0"}),
    "hevc_nvenc": ("cq", 21, {"rc": "vbr", "b": "0"}),
    "av1_nvenc": ("cq", 26, {"rc": "vbr", "b": "0"}),
}
# what is tried where no codec is named, best first: H.264 is played everywhere, in 8 bits and up to 4K
SMALL = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "libopenh264", "mpeg4")
LARGE = ("libx265", "libsvtav1", "libvpx-vp9", "libx264", "mpeg4")
MOVED = 1 << 40  # units by which a segment's times are later than the clip's
SHAPED = ("libx264", "libx265", "mpeg4", "mpeg2video", "h264_nvenc", "hevc_nvenc")  # say pixels' shape themselves
LARGEST_H264 = (2304, 4096)  # (height, width) that hardware decodes


FORMS = {".mkv": "matroska", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm"}  # FFmpeg's names


@dataclass(frozen=True)
class Coding:
    """encoder: FFmpeg's name; options: its own."""

    encoder: str
    pixel_format: str
    options: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """`libx264 crf 17 yuv420p`."""
        quality = next((f" {key} {value}" for key, value in self.options if key in ("crf", "cq", "qp")), "")
        return f"{self.encoder}{quality} {self.pixel_format}"


def choose(container: Path, size: Size, colours: Colours, options: ClipOptions) -> Coding:
    """For frames of (height, width) in a file of such a name. UsageError for what that file or this FFmpeg does
    not take.
    """
    with av.open(io.BytesIO(), "w", format=form_of(container)) as file:
        supported = file.supported_codecs
    if options.codec is None:
        large = colours.bits > 8 or any(side > most for side, most in zip(size, LARGEST_H264, strict=True))
        names = [name for name in (LARGE if large else SMALL) if _fits(name, supported)]
        if not names:
            raise UserError(
                f"{container.suffix}: this FFmpeg has no encoder for it", "expected one; --codec names it"
            )
        name = names[0]
    else:
        name = encoder_of(options.codec).name
        if not _fits(name, supported):
            raise UsageError(
                f"--codec {options.codec}: {container.suffix} does not take it",
                "expected another",
                ".mkv takes all",
            )
    return Coding(name, _pixel_format(name, colours, options), tuple(_settings(name, options).items()))


def form_of(path: Path) -> str:
    """The container that a file's name asks for."""
    return FORMS[suffix_of(path.name)]


def encoder_of(name: str) -> av.Codec:
    """UsageError where this FFmpeg has none of that name."""
    try:
        found = av.Codec(name, "w")
    except (av.codec.codec.UnknownCodecError, ValueError):
        found = None
    if found is None or found.type != "video":
        known = ", ".join(known for known in SETTINGS if known in av.codecs_available)
        raise UsageError(f"--codec {name}: this FFmpeg has no such video encoder", f"expected {known} or the like")
    return found


def _fits(name: str, supported: set[str]) -> bool:
    return name in av.codecs_available and av.Codec(name, "w").canonical_name in supported


def _pixel_format(name: str, colours: Colours, options: ClipOptions) -> str:
    """4:2:0 of 8 bits, or of 10 where the clip has more and the encoder takes them."""
    taken = [form.name for form in av.Codec(name, "w").video_formats or []]
    if options.pixel_format is not None:
        if taken and options.pixel_format not in taken:
            raise UsageError(f"--pixel-format {options.pixel_format}", f"{name} takes {', '.join(taken)}")
        return options.pixel_format
    wanted = (*(("yuv420p10le", "p010le") if colours.bits > 8 else ()), "yuv420p", "nv12")
    return next((form for form in wanted if form in taken or not taken), taken[0] if taken else "yuv420p")


def _settings(name: str, options: ClipOptions) -> dict[str, str]:
    key, default, others = SETTINGS.get(name, ("", 0, {}))
    if not key and options.quality is not None:
        context = av.CodecContext.create(name, "w")
        private = [option.name for option in context.supported_options.private]
        key = next((known for known in ("crf", "cq", "qp", "global_quality") if known in private), "")
        if not key:
            raise UsageError(f"--quality {options.quality}: {name} has no such option", "leave it out")
    quality = default if options.quality is None else options.quality
    return {**others, **({key: str(quality)} if key else {})}


@dataclass(frozen=True)
class ClipTimes:
    """unit: of times, in seconds; rate: frames a second, about; aspect: a pixel's width over its height."""

    unit: Fraction
    rate: Fraction
    aspect: Fraction


def describe(context: Any, coding: Coding, colours: Colours, aspect: Fraction) -> None:
    """Tell a stream's codec context of its colours, and of its pixels' shape."""
    is_rgb = av.VideoFormat(coding.pixel_format).is_rgb
    context.sample_aspect_ratio = aspect
    context.colorspace = RGB if is_rgb else colours.matrix
    context.color_range = FULL if colours.full or is_rgb else LIMITED
    context.color_primaries, context.color_trc = colours.primaries, colours.transfer


class Segment:
    """One segment's file, in NUT, which keeps any unit of time. A context: whole after `close`."""

    def __init__(self, path: Path, coding: Coding, size: Size, clip: ClipTimes, colours: Colours) -> None:
        self.coding, self.colours = coding, colours
        self.clip = clip
        self.container = av.open(str(path), "w", format="nut")
        try:
            self.stream = self._stream(size)
        except BaseException:
            self.container.close()
            raise

    def _stream(self, size: Size) -> VideoStream:
        coding, colours = self.coding, self.colours
        stream = self.container.add_stream(coding.encoder, rate=self.clip.rate, options=dict(coding.options))
        assert isinstance(stream, VideoStream)
        context: Any = stream.codec_context
        context.height, context.width = size
        context.pix_fmt = coding.pixel_format
        context.time_base = self.clip.unit
        describe(context, coding, colours, self.clip.aspect)
        return stream

    def add(self, rgb: Any, pts: int) -> None:
        """A picture float32 [3, H, W] in [0, 1], shown from `pts` on."""
        frame = to_frame(rgb, self.colours, self.coding.pixel_format)
        frame.pts, frame.time_base = pts, self.clip.unit
        try:
            self._mux(self.stream.encode(frame))
        except FFmpegError as error:
            raise refused(self.coding, error) from None

    def _mux(self, packets: list[Packet]) -> None:
        """Times are moved: what begins before 0, as encoders' first packets do, a muxer would move by itself."""
        for packet in packets:
            pts, dts = packet.pts or 0, packet.pts if packet.dts is None else packet.dts
            packet.pts, packet.dts = pts + MOVED, (dts or 0) + MOVED
            self.container.mux_one(packet)

    def close(self, whole: bool = True) -> None:
        """whole: what the encoder has kept back is written too."""
        try:
            if whole:
                self._mux(self.stream.encode(None))
        except FFmpegError as error:
            raise refused(self.coding, error) from None
        finally:
            self.container.close()


def refused(coding: Coding, error: FFmpegError) -> UserError:
    """Of an encoder or a disk."""
    return UserError(
        f"{coding} cannot be written ({said(error)})",
        "expected room on the disk, and an encoder that takes it",
        "-o NAME.mkv, --codec and --pixel-format change it",
    )
