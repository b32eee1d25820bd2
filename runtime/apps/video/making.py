"""One clip: frames are decoded in one thread, enlarged by the chain, encoded in another; then they are joined."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TypeVar, cast

import av
from av.error import FFmpegError
from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import prefix
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.runtime.apps.batch.ledger import local_stamp
from passionsr_trt.runtime.apps.video.colours import HDR, rgb_of, steps_of
from passionsr_trt.runtime.apps.video.encoding import SHAPED, ClipTimes, Coding, Segment, choose, refused
from passionsr_trt.runtime.apps.video.joining import join
from passionsr_trt.runtime.apps.video.options import ClipOptions
from passionsr_trt.runtime.apps.video.reading import Clip, Frame
from passionsr_trt.runtime.apps.video.seen import FrameProgress
from passionsr_trt.runtime.apps.video.segments import Segments, alone
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.observing import Plan, plan_of
from passionsr_trt.runtime.core.ordered import ordered
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import SRResult, super_resolve_each

T = TypeVar("T")
TOLD = 20  # broken frames that have a line of their own; all are counted


def make_clip(
    chain: Chain, source: Path, target: Path, options: Options, wanted: ClipOptions, config: str, streams: int = 1
) -> int:
    """Write `target`; how many packets and frames were broken. config: a digest of engines and options.

    What a killed run left of the same clip is taken up. UserError where nothing of it can be made.
    """
    check_writable(target.parent)
    with Clip(source, wanted.start, wanted.end) as clip, alone(target):
        plan = plan_of(chain, clip.size, options)
        coding = choose(target, plan.result, clip.colours, wanted)
        steps = steps_of(coding.pixel_format)
        size = -(-plan.result[0] // steps[0]) * steps[0], -(-plan.result[1] // steps[1]) * steps[1]
        segments = Segments(target, _digest(config, source, wanted, coding))
        try:
            with FrameProgress(chain.title, clip.count, segments.frames) as progress:
                _begin(clip, plan, coding, size, segments, progress)
                broken = _Broken(clip, segments, progress)
                writing = _Writing(clip, segments, coding, size, wanted.segment)
                _compute(clip, chain, options, streams, writing, broken)
                if not segments.whole:
                    first = (broken.all or [""])[0]
                    raise UserError(f"{source}: no frame could be made", "expected one at least", first)
                for line in _join(clip, segments, coding, target):
                    progress.say(f"{source}: {line}")
                progress.say(f"{target}: {progress.ended()}")
        finally:
            if not segments.whole:
                segments.remove()
    return len(broken.all)


def _digest(config: str, source: Path, wanted: ClipOptions, coding: Coding) -> str:
    """Of all that decides a segment."""
    stamp = local_stamp(source)
    decisive = [config, asdict(wanted), asdict(coding), None if stamp is None else asdict(stamp), av.__version__]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def _begin(
    clip: Clip, plan: Plan, coding: Coding, size: Size, segments: Segments, progress: FrameProgress
) -> None:
    """Say what the clip will be."""
    frames = "" if clip.count is None else f"about {clip.count} frames at "
    codec = clip.stream.codec_context.name
    rate = f"{frames}{float(clip.rate):.5g} a second"
    progress.say(f"{clip.path}: {plan}, {rate}, {codec} {clip.colours} → {coding}")
    if size != plan.result:
        (height, width), (high, wide) = plan.result, size
        progress.say(
            f"{clip.path}: {width}×{height} filled up to {wide}×{high}: {coding.pixel_format} takes even sides"
        )
    if clip.aspect != 1 and coding.encoder not in SHAPED:
        progress.say(
            f"{clip.path}: pixels of {clip.aspect} become square: {coding.encoder} does not say their shape"
        )
    if clip.colours.transfer in HDR:
        progress.say(f"{clip.path}: HDR, enlarged as it is coded; what it says of its mastering is left out")
    if segments.whole:
        progress.say(f"{clip.path}: {segments.frames} frames are there already, of a run that was ended")
    elif segments.dropped:
        progress.say(f"{clip.path}: what another run left of it is thrown away: other engines, options or content")


class _Broken:
    """What was broken, told as it is found. Asked in the one thread that shows progress."""

    def __init__(self, clip: Clip, segments: Segments, progress: FrameProgress) -> None:
        self._clip, self._progress = clip, progress
        self._notes = self._told = 0
        self._earlier = [line for one in segments.whole for line in one.failed]
        self._failed: list[str] = []

    @property
    def all(self) -> list[str]:
        return [*self._earlier, *self._clip.broken, *self._failed]

    def tell(self, failed: list[str]) -> None:
        """failed: of the frame that is done now."""
        fresh = [f"broken: {line}" for line in [*self._clip.broken[self._told :], *failed]]
        self._told = len(self._clip.broken)
        self._failed += failed
        notes = self._clip.notes[self._notes :]
        self._notes += len(notes)
        before = len(self.all) - len(fresh)
        for line in [*notes, *fresh[: max(0, TOLD - before)]]:
            self._progress.say(f"{self._clip.path}: {line}")

    def moved(self, failed: list[str]) -> None:
        self.tell(failed)
        self._progress.moved(len(self.all))


class _Writing:
    """Frames into segments; in one thread."""

    def __init__(self, clip: Clip, segments: Segments, coding: Coding, size: Size, most: int) -> None:
        self._clip, self._segments, self._coding, self._size, self._most = clip, segments, coding, size, most
        self._times = ClipTimes(clip.unit, clip.rate, clip.aspect)
        self._segment: Segment | None = None
        self._frames = self._end = 0
        self._failed: list[str] = []
        self.skipped = segments.frames  # that earlier runs wrote

    def take(self, frame: Frame, result: SRResult | Exception) -> list[str]:
        """Why the frame could not be made; it is left out, and the one before it is shown longer."""
        failed = []
        if isinstance(result, Exception):
            failed = [f"frame {frame.number} at {self._clip.seconds(frame.pts)}: {result or 'out of memory'}"]
        else:
            if self._segment is None:
                path = self._segments.temporary()
                self._segment = Segment(path, self._coding, self._size, self._times, self._clip.colours)
            self._segment.add(rgb_of(result), frame.pts)
            self._end = frame.pts + frame.duration
        self._failed += failed
        self._frames += 1
        if self._frames >= self._most and self._segment is not None:
            self.finish()
        return failed

    def finish(self) -> None:
        """The segment is whole, where there is one."""
        if self._segment is not None:
            segment, self._segment = self._segment, None
            segment.close()
            self._segments.add(self._frames, self._end, self._failed)
            self._frames, self._failed = 0, []

    def abandon(self) -> None:
        """Leave nothing of a segment that is not whole."""
        if self._segment is not None:
            with suppress(Exception):
                self._segment.close(whole=False)
        self._segments.temporary().unlink(missing_ok=True)


def _compute(clip: Clip, chain: Chain, options: Options, streams: int, writing: _Writing, broken: _Broken) -> None:
    """Every frame that is not there yet, into segments."""
    broken.tell([])
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        read = _ahead(clip.frames(writing.skipped), reader, streams + 1)
        pictures = ((frame, frame.picture) for frame in read if frame.picture is not None)
        results = super_resolve_each(chain, pictures, options)
        written = ordered(results, lambda made: writer.submit(writing.take, *made), _result, streams + 1)
        try:
            with closing(written):
                for failed in written:
                    broken.moved(failed)
            broken.tell([])
            writer.submit(writing.finish).result()
        finally:
            writer.submit(writing.abandon).result()


def _result(job: Future[T]) -> T:
    return job.result()


def _ahead(items: Iterator[T], reader: ThreadPoolExecutor, depth: int) -> Iterator[T]:
    """Items, `depth` of them read ahead in another thread."""
    over = object()
    for item in ordered(repeat(None), lambda _: reader.submit(partial(next, items, over)), _result, depth):
        if item is over:
            return
        yield cast(T, item)


def _join(clip: Clip, segments: Segments, coding: Coding, target: Path) -> list[str]:
    """The file under its own name; the segments are gone then."""
    unfinished = target.with_name(f"{prefix()}{target.name}")
    try:
        left = join(clip, coding, segments.files, segments.whole[-1].end, unfinished, target)
        unfinished.replace(target)
    except FFmpegError as error:
        raise refused(coding, error) from None
    finally:
        unfinished.unlink(missing_ok=True)
    segments.remove()
    return left
