"""The whole clip: its segments one after another, and what is copied of the original beside them.

Sound, subtitles, attached files, chapters and metadata are copied as they are, as far as the new container takes
them. Times are those of `reading`: from the clip's start, or --start, on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from av.packet import Packet
from passionsr_trt.runtime.apps.video.encoding import MOVED, Coding, describe, form_of
from passionsr_trt.runtime.apps.video.reading import Clip, said

FAR = 10  # seconds by which streams of one file lie apart in it, at most
NOT_COPIED = ("encoder", "duration", "rotate", "major_brand", "minor_version", "compatible_brands", "_statistics")


@dataclass(frozen=True)
class Timed:
    """One packet of a segment: where it stands in the file's order, and its frame in the clip's."""

    pts: int
    dts: int
    duration: int


def join(clip: Clip, coding: Coding, files: list[Path], end: int, place: Path, target: Path) -> list[str]:
    """Write `place`, which becomes `target`, from segments; end: of the last frame, in the clip's unit. Lines of
    what is left out.
    """
    left: list[str] = []
    with av.open(str(place), "w", format=form_of(target)) as out, av.open(str(files[0])) as first:
        out.metadata.update(kept(clip.container.metadata))
        out.set_chapters(chapters(clip))
        video = out.add_stream_from_template(first.streams.video[0], opaque=True)
        video.time_base = clip.unit
        video.codec_context.framerate = clip.rate  # what players show; a segment's is its unit
        describe(video.codec_context, coding, clip.colours, clip.aspect)
        name(video, clip.stream)
        copies = {index: stream for index, stream in copied(clip, out, left)}
        tracks = [joined(files, clip.unit, end, video)]
        if copies:
            tracks.append(originals(clip, copies, left))
        for _time, packet in heapq.merge(*tracks, key=lambda timed: timed[0]):
            try:
                out.mux_one(packet)
            except FFmpegError as error:
                if packet.stream is video:
                    raise
                note = f"a packet of {packet.stream.type}: {said(error)}"
                if note not in left:
                    left.append(note)
    return left


def joined(files: list[Path], unit: Fraction, end: int, video: Any) -> Iterator[tuple[Fraction, Packet]]:
    """The segments' packets, timed as one stream's."""
    times = iter(timed([pts for file in files for pts in _times(file, unit)], end))
    for file in files:
        with av.open(str(file)) as segment:
            for packet in segment.demux(segment.streams.video[0]):
                if packet.pts is None:
                    continue
                time = next(times)
                packet.stream = video
                packet.time_base = unit
                packet.pts, packet.dts, packet.duration = time.pts, time.dts, time.duration
                yield time.dts * unit, packet


def _times(file: Path, unit: Fraction) -> list[int]:
    """Of each packet, in the file's order."""
    with av.open(str(file)) as segment:
        packets = segment.demux(segment.streams.video[0])
        return [
            round(packet.pts * packet.time_base / unit) - MOVED for packet in packets if packet.pts is not None
        ]


def timed(shown: list[int], end: int) -> list[Timed]:
    """Packets' times of their frames, in the file's order → all that a container asks for.

    A packet is decoded when the frame is shown that stands `delay` places before it: these times rise always, and
    none is after its own frame's, for delay is the farthest that any packet stands ahead of its place.
    """
    order = sorted(shown)
    place = {pts: index for index, pts in enumerate(order)}
    delay = max((index - place[pts] for index, pts in enumerate(shown)), default=0)
    step = min((b - a for a, b in pairwise(order)), default=1)
    early = [order[0] - step * (delay - index) for index in range(delay)] if order else []
    decoded = early + order
    ends = [*order[1:], max(end, order[-1] + 1)] if order else []
    return [Timed(pts, decoded[index], ends[place[pts]] - pts) for index, pts in enumerate(shown)]


def copied(clip: Clip, out: Any, left: list[str]) -> Iterator[tuple[int, Any]]:
    """Streams of the original that the new container takes, by their index, with the new ones."""
    supported = out.supported_codecs
    streams: Any = clip.container.streams
    for stream in streams:
        codec = "" if stream.codec_context is None else f" ({stream.codec_context.name})"
        what = f"{stream.type} {stream.index}{codec}"
        if stream.index == clip.stream.index or stream.type == "video":
            if stream.type == "video" and stream.index != clip.stream.index:
                left.append(f"{what} left out")
            continue
        try:
            if stream.type == "attachment" and out.format.name == "matroska":
                out.add_attachment(
                    stream.name or "attachment", stream.mimetype or "application/octet-stream", stream.data
                )
                continue
            if stream.type not in ("audio", "subtitle") or stream.codec_context is None:
                raise ValueError
            kind = stream.codec_context.codec.canonical_name
            if kind not in supported or (out.format.name == "mp4" and kind.startswith("pcm_")):  # hardly played
                raise ValueError
            made = out.add_stream_from_template(stream, opaque=True)
        except (ValueError, FFmpegError):
            left.append(f"{what} left out: {out.format.name} does not take it here")
            continue
        name(made, stream)
        yield stream.index, made


def name(made: Any, stream: Any) -> None:
    made.metadata.update(kept(stream.metadata))
    made.disposition = stream.disposition


def kept(metadata: dict[str, str]) -> dict[str, str]:
    """Without what describes the old file alone."""
    return {key: text for key, text in metadata.items() if not key.lower().startswith(NOT_COPIED)}


def chapters(clip: Clip) -> list[Any]:
    """Those that lie between start and end, from the start on."""
    found = []
    begin = clip.first + Fraction(clip.start or 0)
    length = None if clip.end is None else Fraction(clip.end) - Fraction(clip.start or 0)
    for chapter in clip.container.chapters():
        unit = chapter["time_base"] or Fraction(1, 1000)
        first, last = (chapter[side] * unit - begin for side in ("start", "end"))
        last = last if length is None else min(last, length)
        if last > 0 and (length is None or first < length):
            found.append({**chapter, "start": round(max(first, Fraction(0)) / unit), "end": round(last / unit)})
    return found


def originals(clip: Clip, copies: dict[int, Any], left: list[str]) -> Iterator[tuple[Fraction, Packet]]:
    """Packets that are copied, between start and end, timed from the start on."""
    begin = clip.first + Fraction(clip.start or 0)
    length = None if clip.end is None else Fraction(clip.end) - Fraction(clip.start or 0)
    last: dict[int, int] = {}
    with av.open(str(clip.path), metadata_errors="replace") as source:
        if clip.start:
            with suppress(FFmpegError):
                source.seek(int(begin * av.time_base), backward=True)
        packets = source.demux([source.streams[index] for index in copies])
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                left.append(f"sound and subtitles after the damage in the file: {said(error)}")
                return
            if packet is None:
                return
            time = packet.pts if packet.dts is None else packet.dts
            if time is None:
                continue
            index, unit = packet.stream.index, packet.time_base
            at = time * unit - begin
            if length is not None and at >= length + FAR:
                return
            if (clip.start and at < 0) or (length is not None and at >= length):
                continue
            shift = round(begin / unit)
            packet.pts = time - shift if packet.pts is None else packet.pts - shift
            packet.dts = max(time - shift, last.get(index, time - shift - 1) + 1)
            packet.pts = max(packet.pts, packet.dts)
            last[index] = packet.dts
            packet.stream = copies[index]
            yield at, packet
