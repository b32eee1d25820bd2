"""Clips: times, colours, turns, sound and what else goes along, what is broken, what is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.host import HostExecutor, Shapes
from passionsr_trt.runtime.core.chain import Arrays, Chain
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.main import main

av = pytest.importorskip("av", reason="needs PyAV (the extra video, Python 3.11 or newer)")

from passionsr_trt.runtime.apps.video.colours import Colours, to_frame, to_rgb  # noqa: E402
from passionsr_trt.runtime.apps.video.joining import timed  # noqa: E402
from passionsr_trt.runtime.apps.video.making import make_clip  # noqa: E402
from passionsr_trt.runtime.apps.video.options import ClipOptions  # noqa: E402
from passionsr_trt.runtime.apps.video.segments import folder_of  # noqa: E402

from tests.clips import colours, level, picture, write_clip  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
EXACT = ClipOptions(codec="ffv1", pixel_format="yuv444p", segment=4)  # lossless
TIMES = [0, 40, 50, 130, 135, 400, 440]


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


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_colours_are_read_as_they_are_named_and_written_so(
    tmp_path: Path, matrix: int, full: bool, bits: int
) -> None:
    """BT.709, 601 and 2020: pixels and names come back."""
    form, coded = "yuv444p" if bits == 8 else "yuv444p10le", colours(matrix, full, bits)
    source = write_clip(tmp_path / "a.mkv", pixel_format=form, coded=coded, times=[0, 40])
    assert made(source, tmp_path / "b.mkv", ClipOptions(codec="ffv1", pixel_format=form)) == 0
    for number, (before, after) in enumerate(zip(frames_of(source), frames_of(tmp_path / "b.mkv"), strict=True)):
        names = [(f.colorspace, f.color_range, f.color_primaries, f.color_trc) for f in (before, after)]
        assert names[0] == names[1] == (matrix, 2 if full else 1, coded.primaries, coded.transfer)
        error = np.abs(rgb_of(after, coded) - picture(number, (24, 32)))
        assert error.max() < 1.6 / (2**bits - 1) * (1 if full else 255 / 219)


def test_colours_are_those_of_the_standard() -> None:
    """BT.709 limited: white is 235, 128, 128; pure blue has Cb of 240. swscale finds the same."""
    white, blue = np.ones((3, 8, 8), np.float32), np.zeros((3, 8, 8), np.float32)
    blue[2] = 1.0
    for bits, unit in ((8, 1), (10, 4)):
        form = "yuv444p" if bits == 8 else "yuv444p10le"
        for rgb, codes in (
            (white, (235, 128, 128)),
            (blue, (16 + 219 * 0.0722, 240, 128 - 112 * 0.0722 / 0.7874)),
        ):
            frame = to_frame(rgb, colours(bits=bits), form)
            found = [np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)[0] for plane in frame.planes]
            assert np.abs(np.array(found) - np.array(codes) * unit).max() <= 0.5 + 1e-3
    noise = np.random.default_rng(0).random((3, 16, 16), np.float32) * 0.6 + 0.2
    for matrix in (1, 6, 9):
        frame = to_frame(noise, colours(matrix), "yuv444p")
        other = frame.reformat(format="rgb24", src_color_range=1, dst_color_range=2).to_ndarray()
        assert np.abs(other.transpose(2, 0, 1) / 255 - noise).max() < 2.5 / 255


@pytest.mark.parametrize(("height", "matrix"), [(24, 6), (600, 1)])
def test_a_clip_that_names_no_colours_has_those_of_its_size(tmp_path: Path, height: int, matrix: int) -> None:
    source = write_clip(
        tmp_path / "a.mkv", size=(height, 32), times=[0], coded=colours(matrix, named=False), name_matrix=False
    )
    assert frames_of(source)[0].colorspace == 2
    assert made(source, tmp_path / "b.mkv") == 0
    (frame,) = frames_of(tmp_path / "b.mkv")
    assert frame.colorspace == matrix
    assert np.abs(rgb_of(frame, colours(matrix)) - picture(0, (height, 32))).max() < 2 / 255


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p10le", "bgr0", "gray", "yuva420p"])
def test_other_pixels_are_read(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_clip(tmp_path / "a.mkv", pixel_format=form, times=[0, 40], coded=colours(full=form == "gray"))
    assert made(source, tmp_path / "b.mkv") == 0
    expected = picture(1, (24, 32))[:, -4, -4]
    if form == "gray":
        expected = np.full(3, expected @ np.array([0.2126, 0.7152, 0.0722], np.float32))
    coded = colours(full=form == "gray")
    found = rgb_of(frames_of(tmp_path / "b.mkv")[1], coded)[:, -4, -4]
    assert np.abs(found - expected).max() < 2 / 255
    assert ("transparency left out" in capsys.readouterr().err) == (form == "yuva420p")


def test_ten_bits_stay_ten_by_default(tmp_path: Path) -> None:
    coded = colours(9, bits=10)
    source = write_clip(tmp_path / "a.mkv", size=(64, 64), pixel_format="yuv420p10le", coded=coded, times=[0, 40])
    assert made(source, tmp_path / "b.mkv", ClipOptions(quality=5), chain_of(scale=2)) == 0
    frame = frames_of(tmp_path / "b.mkv")[1]
    assert frame.format.name == "yuv420p10le" and (frame.width, frame.height) == (128, 128)
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (9, 9, 14)
    assert np.abs(rgb_of(frame, coded)[:, -8, -8] - picture(1, (4, 4))[:, -1, -1]).max() < 4 / 1023


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".webm"])
def test_times_are_kept_whatever_the_rate(tmp_path: Path, suffix: str) -> None:
    """By the container's default encoder, whose packets are not in the order of showing, in segments of 3."""
    unit = Fraction(1, 12800) if suffix in (".mp4", ".mov") else Fraction(1, 1000)
    times = [round(time / 1000 / unit) for time in TIMES]
    codec, form = ("libx264", "yuv420p") if suffix != ".webm" else ("libvpx-vp9", "yuv420p")
    source = write_clip(
        tmp_path / f"a{suffix}", times=times, unit=unit, codec=codec, pixel_format=form, size=(64, 64)
    )
    target = tmp_path / f"b{suffix}"
    assert made(source, target, ClipOptions(segment=3)) == 0
    assert times_of(target) == times_of(source) == [time * unit for time in times]
    assert numbers_of(target) == list(range(len(times)))
    assert not left_over(tmp_path)


def test_a_constant_rate_is_said_to_be_one(tmp_path: Path) -> None:
    """Matroska's times are of milliseconds, which are no rate."""
    source = write_clip(tmp_path / "a.mkv")
    assert made(source, tmp_path / "b.mkv", ClipOptions(segment=3)) == 0
    rates = []
    for path in (source, tmp_path / "b.mkv"):
        with av.open(str(path)) as file:
            rates.append(file.streams.video[0].average_rate)
    assert rates == [25, 25]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-50, 5000), min_size=1, unique=True), st.randoms(use_true_random=False))
def test_times_of_decoding_rise_and_are_not_after_those_of_showing(shown: list[int], random: Any) -> None:
    random.shuffle(shown)
    found = timed(shown, max(shown) + 7)
    assert [time.pts for time in found] == shown
    assert all(a.dts < b.dts for a, b in pairwise(found))
    assert all(time.dts <= time.pts for time in found)
    assert sum(time.duration for time in found) == max(shown) + 7 - min(shown)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_a_turned_clip_is_upright_and_its_pixels_keep_their_shape(
    tmp_path: Path, rotation: int, corner: tuple[int, int]
) -> None:
    """The lit corner goes where a player shows it; rotation is counted against the clock."""
    source = write_clip(
        tmp_path / "a.mp4",
        codec="libx264",
        options={"crf": "1"},
        pixel_format="yuv444p",
        unit=Fraction(1, 12800),
        times=[0, 512],
        rotation=rotation,
        aspect=Fraction(4, 3),
    )
    assert made(source, tmp_path / "b.mkv", ClipOptions(pixel_format="yuv444p")) == 0
    frame = frames_of(tmp_path / "b.mkv")[0]
    turned = rotation in (90, -90)
    assert frame.rotation == 0 and (frame.height, frame.width) == ((32, 24) if turned else (24, 32))
    rgb = rgb_of(frame, colours())
    corners = {(y, x): rgb[2, y, x] for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=lambda place: corners[place]) == corner
    with av.open(str(tmp_path / "b.mkv")) as file:
        assert file.streams.video[0].sample_aspect_ratio == (Fraction(3, 4) if turned else Fraction(4, 3))


def test_a_mirrored_clip_is_as_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv444p"
        stream.set_display_rotation(0, hflip=True)
        file.mux(stream.encode(to_frame(picture(0, (24, 32)), colours(), "yuv444p")))
        file.mux(stream.encode(None))
    assert made(path, tmp_path / "b.mkv") == 0
    rgb = rgb_of(frames_of(tmp_path / "b.mkv")[0], colours(6))
    assert rgb[2, 0, -1] > 0.8 > rgb[2, 0, 0]


def test_odd_sides_are_kept_where_pixels_take_them_and_filled_up_where_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clip(tmp_path / "a.mkv", size=(25, 33))
    assert made(source, tmp_path / "b.mkv") == 0
    assert made(source, tmp_path / "c.mkv", ClipOptions()) == 0
    assert made(source, tmp_path / "d.mkv", ClipOptions(), chain_of(scale=4)) == 0
    sizes = [(f.width, f.height) for f in (frames_of(tmp_path / f"{name}.mkv")[0] for name in "bcd")]
    assert sizes == [(33, 25), (34, 26), (132, 100)]
    assert "33×25 filled up to 34×26: yuv420p takes even sides" in capsys.readouterr().err


def test_sound_subtitles_chapters_and_metadata_go_along(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", sound=True, subtitles=True)
    assert made(source, tmp_path / "b.mkv") == 0
    with av.open(str(source)) as before, av.open(str(tmp_path / "b.mkv")) as after:
        assert after.metadata["title"] == "A clip"
        assert [stream.type for stream in after.streams] == ["video", "audio", "subtitle"]
        assert [stream.language for stream in after.streams][1:] == ["deu", "eng"]
        assert [chapter["metadata"]["title"] for chapter in after.chapters()] == ["one", "two"]
        assert after.chapters() == before.chapters()
        packets = [[(p.pts, p.duration, bytes(p)) for p in file.demux(1, 2) if p.size] for file in (before, after)]
        assert packets[0] == packets[1] and len(packets[0]) == 3


def test_sound_stays_beside_its_frames_in_mp4(tmp_path: Path) -> None:
    """AAC begins before its first frame is heard; B-frames are decoded before they are shown."""
    codec, unit = {"codec": "libx264", "pixel_format": "yuv420p"}, Fraction(1, 12800)
    source = write_clip(
        tmp_path / "a.mp4", times=range(0, 5120, 512), unit=unit, sound=True, size=(64, 64), **codec
    )
    assert made(source, tmp_path / "b.mp4", ClipOptions(segment=4)) == 0
    assert times_of(tmp_path / "b.mp4") == times_of(source)
    sound = []
    for path in (source, tmp_path / "b.mp4"):
        with av.open(str(path)) as file:
            sound.append([(p.pts, bytes(p)) for p in file.demux(file.streams.audio[0]) if p.size])
    assert sound[0] == sound[1] and len(sound[0]) > 1


def test_what_a_container_does_not_take_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clip(tmp_path / "a.mkv", sound=True, subtitles=True)
    assert made(source, tmp_path / "b.mp4", ClipOptions()) == 0
    said = capsys.readouterr().err
    assert (
        "audio 1 (pcm_s16le) left out: mp4 does not take it here" in said and "subtitle 2 (srt) left out" in said
    )
    with av.open(str(tmp_path / "b.mp4")) as file:
        assert "subtitle" not in [stream.type for stream in file.streams]


def test_a_part_of_a_clip_with_its_sound(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", times=list(range(0, 400, 40)), sound=True, subtitles=True)
    assert made(source, tmp_path / "b.mkv", ClipOptions(0.12, 0.24, "ffv1", None, "yuv444p")) == 0
    assert times_of(tmp_path / "b.mkv") == [0, Fraction(40, 1000), Fraction(80, 1000)]
    assert numbers_of(tmp_path / "b.mkv") == [3, 4, 5]
    with av.open(str(tmp_path / "b.mkv")) as file:
        assert [bytes(packet) for packet in file.demux(2) if packet.size] == [b"second"]
        assert [c["metadata"]["title"] for c in file.chapters()] == ["two"]
    with pytest.raises(UserError, match="holds no frame"):
        made(source, tmp_path / "c.mkv", ClipOptions(start=9.0))
    assert not (tmp_path / "c.mkv").exists() and not left_over(tmp_path)


def test_an_interlaced_clip_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_clip(
        tmp_path / "a.mkv", codec="mpeg2video", pixel_format="yuv420p", unit=Fraction(1, 25), times=[0, 1, 2],
        options={"flags": "+ildct+ilme"}, size=(48, 64),
    )  # fmt: skip
    assert made(source, tmp_path / "b.mkv") == 0
    assert capsys.readouterr().err.count("interlaced: ") == 1


def test_an_interrupted_run_goes_on_with_its_segments(tmp_path: Path) -> None:
    """The result is that of a run in one go; the frames of one segment at most are made twice."""
    source = write_clip(tmp_path / "a.mkv", times=list(range(0, 400, 40)), sound=True)
    seen: list[int] = []

    def until(last: int) -> Callable[[float], None]:
        def see(bright: float) -> None:
            seen.append(number_of(bright))
            if seen[-1] == last:
                raise KeyboardInterrupt

        return see

    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path / "b.mkv", chain=chain_of(until(7)))
    assert not (tmp_path / "b.mkv").exists()
    assert sorted(path.name for path in folder_of(tmp_path / "b.mkv").glob("*.nut")) == ["000000.nut"]
    assert made(source, tmp_path / "b.mkv", chain=chain_of(until(99))) == 0
    assert seen == [*range(8), *range(4, 10)]
    assert made(source, tmp_path / "c.mkv") == 0
    assert times_of(tmp_path / "b.mkv") == times_of(tmp_path / "c.mkv")
    pairs = zip(*(frames_of(tmp_path / f"{name}.mkv") for name in "bc"), strict=True)
    assert all(np.array_equal(one.to_ndarray(), other.to_ndarray()) for one, other in pairs)
    assert not left_over(tmp_path)


def test_a_killed_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_clip(tmp_path / "a.mkv", times=list(range(0, 400, 40)))
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.runtime import test_video as t\n"
        "end = lambda bright: t.number_of(bright) == 6 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.made(Path(sys.argv[1]), Path(sys.argv[2]), chain=t.chain_of(end))\n"
    )
    words = [sys.executable, "-c", code, str(source), str(tmp_path / "b.mkv")]
    done = subprocess.run(words, cwd=ROOT, env=dict(os.environ), capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    seen: list[int] = []
    assert made(source, tmp_path / "b.mkv", chain=chain_of(lambda bright: seen.append(number_of(bright)))) == 0
    assert seen == list(range(4, 10)) and numbers_of(tmp_path / "b.mkv") == list(range(10))
    assert "4 frames are there already" in capsys.readouterr().err
    assert not left_over(tmp_path)


def test_what_is_left_of_another_clip_is_thrown_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_clip(tmp_path / "a.mkv", times=list(range(0, 400, 40)))

    def end(bright: float) -> None:
        if number_of(bright) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path / "b.mkv", chain=chain_of(end))
    write_clip(source, times=list(range(0, 200, 40)))
    assert made(source, tmp_path / "b.mkv") == 0
    assert len(frames_of(tmp_path / "b.mkv")) == 5 and "thrown away" in capsys.readouterr().err


def test_a_frame_that_cannot_be_made_is_named_and_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(bright: float) -> None:
        if number_of(bright) in (0, 2):
            raise UserError("no such luck")

    source = write_clip(tmp_path / "a.mkv")
    assert made(source, tmp_path / "b.mkv", chain=chain_of(fail)) == 2
    assert numbers_of(tmp_path / "b.mkv") == [1, 3, 4, 5]
    assert times_of(tmp_path / "b.mkv") == [Fraction(n * 40, 1000) for n in (1, 3, 4, 5)]
    assert "broken: frame 2 at 0.080 s: no such luck" in capsys.readouterr().err


def test_a_clip_of_which_nothing_can_be_made_is_refused(tmp_path: Path) -> None:
    def fail(_bright: float) -> None:
        raise UserError("no such luck")

    source = write_clip(tmp_path / "a.mkv")
    with pytest.raises(
        UserError, match=r"no frame could be made; expected one at least; frame 0 at .*no such luck"
    ):
        made(source, tmp_path / "b.mkv", chain=chain_of(fail))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def damaged(path: Path, number: int) -> Path:
    """The packet of one frame of an FFV1 clip overwritten where it lies."""
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][number]
        content = bytes(packet)
    data = path.read_bytes()
    at = data.index(content)
    path.write_bytes(data[:at] + bytes(255 - byte for byte in content) + data[at + len(content) :])
    return path


def test_a_broken_packet_is_named_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = damaged(write_clip(tmp_path / "a.mkv", options={"g": "1"}), 2)
    assert made(source, tmp_path / "b.mkv") == 1
    numbers = numbers_of(tmp_path / "b.mkv")
    assert [n for n in numbers if n != 2][-4:] == [1, 3, 4, 5] and numbers[0] == 0
    assert "at 0.080 s" in capsys.readouterr().err


def test_a_clip_that_was_cut_off_is_made_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clip(tmp_path / "a.mkv", times=list(range(0, 4000, 400)), options={"g": "1"})
    with av.open(str(source)) as file:
        ends = [packet.pos for packet in file.demux(video=0) if packet.size]
    source.write_bytes(source.read_bytes()[: ends[6]])
    assert made(source, tmp_path / "b.mkv") == 1
    assert numbers_of(tmp_path / "b.mkv")[:5] == list(range(5))
    assert "the file is cut off or damaged" in capsys.readouterr().err


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("no clip at all " * 99), "cannot be read as a clip"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a clip"),
    "missing": (lambda path: None, "no such file"),
    "sound alone": (lambda path: sound_alone(path), "no video in it"),
    "an MP4 without its end": (lambda path: cut_mp4(path), "cannot be read as a clip"),
    "too small": (lambda path: write_clip(path, size=(4, 32)), "expected sides from 8 on"),
}


def sound_alone(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for piece in av.AudioResampler("s16", stream.codec_context.layout, 8000).resample(frame):
            file.mux(stream.encode(piece))


def cut_mp4(path: Path) -> None:
    whole = write_clip(path.with_suffix(".mp4"), codec="libx264", pixel_format="yuv420p", unit=Fraction(1, 12800))
    path.write_bytes(whole.read_bytes()[:-400])
    whole.unlink()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_clip_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    write, reason = REFUSED[kind]
    write(tmp_path / "a.mkv")
    with pytest.raises(UserError, match=reason) as caught:
        made(tmp_path / "a.mkv", tmp_path / "out" / "b.mkv")
    assert "\n" not in str(caught.value) and str(tmp_path / "a.mkv") in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def infer(*words: object) -> int:
    engines = ("--engines", ROOT / "tests/data/small/onnx_fp32", "--provider", "cpu", "--threads", 1)
    return main(["infer", *map(str, (*words, *engines))])


def test_the_command_makes_a_clip_once_and_equal_frames_become_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise is that of the seed, the same for every frame."""
    source = write_clip(tmp_path / "a.mkv", times=[0, 400, 800], codec="ffv1")
    lossless = ("--codec", "ffv1", "--pixel-format", "yuv444p")
    assert infer(source, source, "-o", tmp_path / "out", "--resume", *lossless) == 0
    printed = capsys.readouterr()
    assert printed.out == f"1 of 1 clips written to {tmp_path / 'out' / 'a.mkv'}\n"
    assert "32×24 → 64×48" in printed.err and "BT.709 limited, 8 bits → ffv1 yuv444p" in printed.err
    assert infer(source, "-o", tmp_path / "out", "--resume", *lossless) == 0
    assert "1 of 1 are there already; skipped" in capsys.readouterr().out
    still = write_clip(tmp_path / "still.mkv", times=[0])
    with av.open(str(still)) as file, av.open(str(tmp_path / "twice.mkv"), "w") as out:
        stream = out.add_stream_from_template(file.streams.video[0], opaque=True)
        packet = next(file.demux(video=0))
        for time in (0, 40):
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.pts, copy.dts, copy.is_keyframe = (
                stream,
                packet.time_base,
                time,
                time,
                True,
            )
            out.mux_one(copy)
    assert infer(tmp_path / "twice.mkv", *lossless) == 0
    one, other = (frame.to_ndarray() for frame in frames_of(tmp_path / "twice_x2.mkv"))
    assert np.array_equal(one, other)


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "a format": (("a.mkv", "--format", "png"), "--format png of a clip"),
    "a picture beside": (("a.mkv", "b.png"), "b.png beside clips"),
    "no clip": (("b.png", "--start", "3"), "options of clips without a clip"),
    "backwards": (("a.mkv", "--start", "3", "--end", "0:02"), "--end 2; expected more than --start 3"),
    "no time": (("a.mkv", "--start", "soon"), "expected seconds, or H:MM:SS"),
    "one for two": (("a.mkv", "b.mkv", "-o", "c.mkv"), "one file for 2 clips"),
    "over itself": (("a.mkv", "-o", "a.mkv"), "would overwrite"),
    "twins": (("a.mkv", "x/a.mkv", "-o", "out"), "would overwrite"),
    "a container": (("a.mkv", "-o", "b.avi"), "cannot write .avi"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_one_line(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, reason = WRONG[case]
    try:
        status = infer(*words)
    except SystemExit as error:  # argparse's own
        status = int(error.code or 0)
    assert status == 2 and reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (ClipOptions(codec="nonsense"), "no such video encoder"),
        (ClipOptions(codec="libx264", pixel_format="pal8"), "libx264 takes yuv420p"),
        (ClipOptions(codec="ffv1", quality=3), "ffv1 has no such option"),
    ],
)
def test_a_wrong_coding_is_one_line(tmp_path: Path, wanted: ClipOptions, reason: str) -> None:
    source = write_clip(tmp_path / "a.mkv")
    with pytest.raises(UserError, match=reason):
        made(source, tmp_path / "b.mkv", wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]
