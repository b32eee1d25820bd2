"""Small clips, generated: a picture that drifts, so that frames are told apart by their brightness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, TensorInfo
from passionsr_trt.runtime.apps.video.colours import LIMITED, UNNAMED, Colours, to_frame, to_rgb
from passionsr_trt.runtime.apps.video.making import make_clip
from passionsr_trt.runtime.apps.video.options import ClipOptions
from passionsr_trt.runtime.backends.host import HostExecutor, Shapes
from passionsr_trt.runtime.core.chain import Arrays, Chain
from passionsr_trt.runtime.core.planning import Options

EXACT = ClipOptions(codec="ffv1", pixel_format="yuv444p", segment=4)  # lossless
BRIGHT = 10  # frames whose brightness rises, one step each


def level(number: int) -> float:
    """Of a frame: its brightness in [0, 1]."""
    return 0.2 + 0.06 * (number % BRIGHT)


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """float32 [3, H, W] in [0, 1]: a warm colour, brighter from frame to frame, with its upper left corner lit."""
    rgb = np.empty((3, *size), np.float32)
    rgb[:] = (level(number) * np.array([1.0, 0.8, 0.5], np.float32))[:, None, None]
    rgb[:, : size[0] // 4, : size[1] // 4] = 0.95
    return rgb


def colours(matrix: int = 1, full: bool = False, bits: int = 8, named: bool = True) -> Colours:
    primaries, transfer = (matrix if matrix != 6 else 6, {9: 14}.get(matrix, matrix)) if named else (UNNAMED,) * 2
    return Colours(matrix, full, primaries, transfer, bits)


def write_clip(
    path: Path,
    *,
    size: tuple[int, int] = (24, 32),
    times: Sequence[int] = tuple(range(0, 6 * 40, 40)),
    unit: Fraction = Fraction(1, 1000),
    codec: str = "ffv1",
    pixel_format: str = "yuv444p",
    coded: Colours | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    sound: bool = False,
    subtitles: bool = False,
    options: dict[str, str] | None = None,
    name_matrix: bool = True,
) -> Path:
    """Frames of (height, width) shown at `times`. sound: a tone as long; subtitles: a line a second."""
    coded = colours() if coded is None else coded
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "A clip"
        stream: Any = file.add_stream(codec, rate=25, options=options or {})
        context = stream.codec_context
        context.height, context.width, context.pix_fmt = *size, pixel_format
        context.time_base = unit
        if name_matrix:
            context.colorspace = 0 if av.VideoFormat(pixel_format).is_rgb else coded.matrix
        context.color_range = 2 if coded.full else LIMITED
        context.color_primaries, context.color_trc = coded.primaries, coded.transfer
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tone = file.add_stream("pcm_s16le" if path.suffix != ".mp4" else "aac", rate=8000) if sound else None
        if tone is not None:
            tone.metadata["language"] = "deu"
        lines = _subtitle_stream(file, path) if subtitles else None
        if subtitles:
            marks = [(0, 100, "one"), (100, 240, "two")]
            file.set_chapters(
                [
                    {"id": i, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                    for i, (a, b, title) in enumerate(marks)
                ]
            )
        for number, time in enumerate(times):
            frame = to_frame(picture(number, size), coded, pixel_format)
            frame.pts, frame.time_base = time, unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if tone is not None:
            _write_tone(file, tone, float(times[-1] * unit) + 0.04)
        if lines is not None:
            for start, text in ((0, "first"), (120, "second")):
                packet = av.Packet(text.encode())
                packet.stream, packet.time_base = lines, Fraction(1, 1000)
                packet.pts = packet.dts = start
                packet.duration = 100
                file.mux_one(packet)
    return path


def _subtitle_stream(file: Any, path: Path) -> Any:
    """A stream of SubRip's lines."""
    stream = file.add_mux_stream("subrip")
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "eng"
    return stream


def _write_tone(file: Any, stream: Any, seconds: float) -> None:
    count = round(seconds * 8000)
    wave = (np.sin(np.arange(count) / 5) * 9000).astype(np.int16)
    form = "s16"
    frame = av.AudioFrame.from_ndarray(wave[None], format=form, layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
    resampled = av.AudioResampler(stream.codec_context.format, stream.codec_context.layout, 8000).resample(frame)
    for piece in resampled:
        file.mux(stream.encode(piece))
    file.mux(stream.encode(None))


class Same:
    """An engine that gives back what it was given; `seen` is told of each picture's brightness first."""

    def __init__(self, seen: Callable[[float], None] = lambda _bright: None) -> None:
        self.seen = seen

    def prepare(self, shapes: Shapes) -> None:
        """Nothing to make ready."""

    def run(self, inputs: Arrays) -> np.ndarray:
        (x,) = inputs.values()
        self.seen(float(x[0, 0, -1, -1] + 1) / 2)  # of a corner that is not lit, in red
        return x.copy()


def chain_of(seen: Callable[[float], None] = lambda _bright: None, scale: int = 1) -> Chain:
    part = PartInfo("net", "net", (TensorInfo("image", 3, 1),), TensorInfo("out", 3, 1), 1)
    return Chain(ModelInfo("", "none", scale, "none"), (part,), HostExecutor({"net": Same(seen)}), "same")


def number_of(bright: float) -> int:
    """Of the frame that is so bright."""
    return round((bright - level(0)) / (level(1) - level(0)))


def made(source: Path, target: Path, wanted: ClipOptions = EXACT, chain: Chain | None = None) -> int:
    return make_clip(chain or chain_of(), source, target, Options(), wanted, "config")


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def times_of(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames_of(path)]


def rgb_of(frame: Any, coded: Colours) -> np.ndarray:
    return to_rgb(frame, coded, (frame.height, frame.width))


def numbers_of(path: Path) -> list[int]:
    return [number_of(float(rgb_of(frame, colours())[0, -1, -1])) for frame in frames_of(path)]


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".passionsr")]
