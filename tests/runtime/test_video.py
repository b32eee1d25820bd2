"""Clips: times, colours, turns, sound and what else goes along."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.common.errors import UserError

av = pytest.importorskip("av", reason="needs PyAV (the extra video, Python 3.11 or newer)")

from passionsr_trt.runtime.apps.video.colours import to_frame  # noqa: E402
from passionsr_trt.runtime.apps.video.joining import timed  # noqa: E402
from passionsr_trt.runtime.apps.video.options import ClipOptions  # noqa: E402

from tests.clips import (  # noqa: E402
    chain_of,
    colours,
    frames_of,
    left_over,
    made,
    numbers_of,
    picture,
    rgb_of,
    times_of,
    write_clip,
)

TIMES = [0, 40, 50, 130, 135, 400, 440]


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
