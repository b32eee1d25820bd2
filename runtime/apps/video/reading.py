"""A clip's frames, one after another, upright, in RGB, with the time that each is shown at.

A packet or frame that is broken is named and passed over. Times are the container's, in the stream's own unit,
from the clip's start (or --start) on; a frame without a usable one comes a frame's length after the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.stream import VideoStream
from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.pictures.pictures import MAX_PIXELS, MIN_SIDE
from passionsr_trt.runtime.apps.video.colours import Colours, colours_of, given_of, has_alpha, to_rgb
from passionsr_trt.runtime.core.ordered import attempt
from passionsr_trt.runtime.core.upscaler import Given

MOST_FAILURES = 100  # readings in a row that give nothing: the file is at its end, whatever it says
SLACK = 0.5  # seconds by which a clip may be shorter than its header says, or a hundredth of it


@dataclass(frozen=True)
class Frame:
    """number: counted from the first that is wanted; pts, duration: in the clip's unit. picture: why there
    is none; None where it is not to be made again.
    """

    number: int
    pts: int
    duration: int
    picture: Given | Exception | None


class Clip:
    """One file, opened. UserError where it is no clip that can be read. A context; frames can be asked for once.

    broken: what was passed over, a line each; notes: what is to be said of it. Both grow while frames are read.
    """

    def __init__(self, path: Path, start: float | None = None, end: float | None = None) -> None:
        self.path = path
        self.broken: list[str] = []
        self.notes: list[str] = []
        self.container = opened(path)
        try:
            self.stream = self._stream()
            self.unit = self.stream.time_base or Fraction(1, 1000)
            rate = self.stream.average_rate or self.stream.guessed_rate or self.stream.base_rate
            self.rate = rate if rate is not None and 0 < rate <= 1000 else Fraction(25)
            self.step = max(1, round(1 / self.rate / self.unit))
            self.first = Fraction(self.container.start_time or 0, av.time_base)
            self.start, self.end = start, end
            self._frames = self._decoded()
            self._ahead = self._peeked()
            self.aspect, self.size = self._shape(self._ahead)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Clip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def _stream(self) -> VideoStream:
        streams = [one for one in self.container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            raise UserError(f"{self.path}: no video in it", "expected a clip with a video stream")
        if streams[0].codec_context is None:
            raise UserError(f"{self.path}: video that no decoder here takes", "expected another coding of it")
        if len(streams) > 1:
            self.notes.append(f"the first of {len(streams)} video streams")
        return streams[0]

    @property
    def offset(self) -> int:
        """What is taken from times: that of the clip's start, or of --start."""
        return round((self.first + Fraction(self.start or 0)) / self.unit)

    @property
    def count(self) -> int | None:
        """About how many frames are wanted, None where nobody knows."""
        if not (self.start or self.end) and self.stream.frames:
            return self.stream.frames
        length = self.length
        last = length if self.end is None or (length is not None and length < self.end) else self.end
        return None if last is None else max(1, round((last - (self.start or 0)) * float(self.rate)))

    @property
    def length(self) -> float | None:
        """Seconds, as the header says."""
        if self.stream.duration:
            return float(self.stream.duration * self.unit)
        try:
            hours, minutes, seconds = self.stream.metadata.get("DURATION", "").split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:
            return self.container.duration / av.time_base if self.container.duration else None

    def _peeked(self) -> tuple[av.VideoFrame, int, int]:
        found = next(self._frames, None)
        if found is None:
            reason = f" ({self.broken[0]})" if self.broken else ""
            raise UserError(f"{self.path}: holds no frame that can be read{reason}", "expected a whole clip")
        return found

    def _shape(self, ahead: tuple[av.VideoFrame, int, int]) -> tuple[Fraction, Size]:
        """Of the first frame: pixels' width over height, and (height, width), upright; `colours`, `turn` too."""
        frame = ahead[0]
        try:
            self.colours: Colours = colours_of(frame)
        except UserError as error:
            raise UserError(f"{self.path}: {error.fact}", error.expected) from None
        self.turn = turn_of(frame)
        if self.turn is None:
            self.notes.append(
                f"to be shown turned by {frame.rotation}°; kept as it lies: right angles are applied"
            )
        elif self.turn != UPRIGHT:
            self.notes.append("turned upright")
        if frame.interlaced_frame:
            self.notes.append(
                "interlaced: both fields are enlarged as one frame; deinterlace it first (FFmpeg's bwdif)"
            )
        if has_alpha(frame):
            self.notes.append("transparency left out")
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        size = self.coded = (frame.height, frame.width)
        if min(size) < MIN_SIDE or size[0] * size[1] > MAX_PIXELS:
            most = f"{MAX_PIXELS / 1e6:.0f} megapixels at most"
            raise UserError(
                f"{self.path}: {size[1]}×{size[0]} pixels", f"expected sides from {MIN_SIDE} on, {most}"
            )
        if self.turn is not None and self.turn.swapped:
            return 1 / aspect if aspect else Fraction(1), (size[1], size[0])
        return aspect or Fraction(1), size

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Every frame that is wanted. skip: so many of the first ones are not made."""
        number, last, shape = 0, -1, self.coded
        picture: Given | Exception | None
        for frame, pts, duration in self._from_first():
            picture = None
            if number >= skip:
                if (frame.height, frame.width) != shape:
                    shape = (frame.height, frame.width)
                    self.notes.append(
                        f"{shape[1]}×{shape[0]} pixels from {self.seconds(pts)} on: brought to the first's"
                    )
                picture = attempt(partial(self._picture, frame))
            yield Frame(number, pts, duration, picture)
            number, last = number + 1, pts + duration
        self._check_end(last)

    def _picture(self, frame: av.VideoFrame) -> Given:
        try:
            rgb = to_rgb(frame, self.colours, self.coded)
        except FFmpegError as error:
            raise UserError(f"its pixels cannot be read ({said(error)})") from None
        return given_of(rgb if self.turn is None else self.turn.applied(rgb), self.colours.bits)

    def _from_first(self) -> Iterator[tuple[av.VideoFrame, int, int]]:
        yield self._ahead
        yield from self._frames

    def _check_end(self, last: int) -> None:
        """Is the file shorter than its header says?"""
        expected, reached = self.length, float(last * self.unit) + (self.start or 0)
        if expected is not None and self.end is None and reached < expected - max(SLACK, expected / 100):
            self.broken.append(
                f"its end: {reached:.2f} of {expected:.2f} s are there; the file is cut off or damaged"
            )

    def seconds(self, pts: int) -> str:
        return f"{float(pts * self.unit) + (self.start or 0):.3f} s"

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """Frames between start and end, with their times from the start on."""
        if self.start:
            try:
                self.container.seek(int((self.first + Fraction(self.start)) * av.time_base), backward=True)
            except FFmpegError:  # what cannot be searched is read from its beginning
                self.container.close()
                self.container = opened(self.path)
                self.stream = self.container.streams.video[self.stream.index]
        last = None
        end = None if self.end is None else round((Fraction(self.end) - Fraction(self.start or 0)) / self.unit)
        untimed = False
        for frame in self._every():
            pts = None if frame.pts is None else frame.pts - self.offset
            if pts is None or (last is not None and pts <= last):
                pts, untimed = (0 if last is None else last + self.step), True
            if frame.is_corrupt:
                self.broken.append(
                    f"the frame at {self.seconds(pts)}: damaged, written as the decoder filled it in"
                )
            last = pts
            if end is not None and pts >= end:
                break
            if pts >= 0 or not self.start:
                yield frame, pts, frame.duration or self.step
        if untimed:
            self.notes.append(f"frames without a time of their own are shown {float(self.rate):g} a second")

    def _every(self) -> Iterator[av.VideoFrame]:
        """All frames that can be decoded; what cannot is in `broken`."""
        failures, at = 0, 0.0
        while failures < MOST_FAILURES:
            try:
                for packet in self.container.demux(self.stream):
                    at = float(packet.pts * packet.time_base) if packet.pts is not None else at
                    try:
                        yield from packet.decode()
                        failures = 0
                    except FFmpegError as error:
                        self.broken.append(f"the packet at {at - float(self.first):.3f} s: {said(error)}")
                return
            except FFmpegError as error:  # of the file: what comes after may be whole
                failures += 1
                if failures == 1:
                    self.broken.append(f"the file after {at - float(self.first):.3f} s: {said(error)}")


@dataclass(frozen=True)
class Turn:
    """How a picture is laid upright: rows and columns swapped, then mirrored top to bottom, left to right."""

    swapped: bool
    flipped: bool
    mirrored: bool

    def applied(self, rgb: np.ndarray) -> np.ndarray:
        """To [3, H, W]."""
        turned = rgb.swapaxes(1, 2) if self.swapped else rgb
        return turned[:, :: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


UPRIGHT = Turn(False, False, False)


def turn_of(frame: av.VideoFrame) -> Turn | None:
    """By the frame's display matrix; None where it turns by no right angle.

    Its first entries a, b, ·, c, d show the point (x, y) at (a x + c y, b x + d y), y downwards.
    """
    beside: Any = frame.side_data
    data = beside.get(Type.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    a, b, _u, c, d = (round(int(entry) / 65536, 3) for entry in np.frombuffer(data, np.int32)[:5])
    if a and d and not b and not c:
        return Turn(False, d < 0, a < 0)
    if b and c and not a and not d:
        return Turn(True, b < 0, c < 0)
    return None


def opened(path: Path) -> av.container.InputContainer:
    """UserError where FFmpeg cannot read it."""
    if not path.exists():
        raise UserError(f"{path}: no such file", "expected a clip")
    try:
        return av.open(str(path), metadata_errors="replace")
    except FFmpegError as error:
        fact = f"{path}: cannot be read as a clip ({said(error)})"
        raise UserError(fact, "expected a whole one that FFmpeg can read") from None


def said(error: FFmpegError) -> str:
    """FFmpeg's words alone."""
    return reason_of(Exception(error.strerror or str(error)))
