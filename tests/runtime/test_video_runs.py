"""Clips that are broken, runs that are ended and go on, and the command itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.main import main

av = pytest.importorskip("av", reason="needs PyAV (the extra video, Python 3.11 or newer)")

from passionsr_trt.runtime.apps.video.options import ClipOptions  # noqa: E402
from passionsr_trt.runtime.apps.video.segments import folder_of  # noqa: E402

from tests.clips import (  # noqa: E402
    chain_of,
    frames_of,
    left_over,
    made,
    number_of,
    numbers_of,
    times_of,
    write_clip,
)

ROOT = Path(__file__).resolve().parents[2]


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
        "from tests import clips as t\n"
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
    "no clip": (
        ("b.png", "--start", "3", "--pixel-format", "x"),
        "--start, --pixel-format: options of clips without a clip",
    ),
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
