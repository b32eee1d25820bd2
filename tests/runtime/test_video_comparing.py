"""compare on clips: figures of every frame, steadiness, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

av = pytest.importorskip("av", reason="needs PyAV (the extra video, Python 3.11 or newer)")
pytest.importorskip("skimage", reason="needs scikit-image (the extra compare)")

from passionsr_trt.runtime.main import main  # noqa: E402
from PIL import Image  # noqa: E402

from tests.clips import colours, write_clip  # noqa: E402
from tests.conftest import COMMITTED  # noqa: E402

FLOAT, INT8 = str(COMMITTED / "onnx_fp32"), str(COMMITTED / "onnx_int8")


def compared(clips: list[Path], output: Path, *options: str, engines: str = INT8) -> list[str]:
    words = ["compare", *map(str, clips), "--reference", FLOAT, "--engines", engines, "-o", str(output)]
    return [*words, *options]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that does not fit."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_every_frame_is_compared_and_how_steady_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "a.mkv", times=[0, 40, 90, 130])
    assert main(compared([clip], tmp_path / "out")) == 0
    report = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    row = report["clips"]["a"]
    assert [frame["time"] for frame in row["frames"]] == ["0.000 s", "0.040 s", "0.090 s", "0.130 s"]
    worst = min(frame["psnr"] for frame in row["frames"])
    assert 10 < row["to_float"]["psnr_worst"] == worst < 80
    assert 0 < row["flicker"] <= row["flicker_worst"]
    assert row["warped_float"] > 0
    printed = capsys.readouterr().out
    assert "a: 4 frames" in printed
    assert f"flicker            {row['flicker']:.2f} codes" in printed
    assert Image.open(tmp_path / "out" / "a-worst-frame.png").height > 24


def test_the_float_model_beside_itself_is_equal_and_steady(tmp_path: Path) -> None:
    """Ten bits too; and of a clip no more than was asked for."""
    clip = write_clip(tmp_path / "a.mkv", pixel_format="yuv444p10le", coded=colours(9, bits=10))
    words = compared([clip], tmp_path / "out", "--frames", "2", "--start", "0.04", engines=FLOAT)
    assert main(words) == 0
    row = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))["clips"]["a"]
    assert [frame["time"] for frame in row["frames"]] == ["0.040 s", "0.080 s"]
    assert row["flicker"] == row["flicker_worst"] == 0
    assert row["warped_tested"] == row["warped_float"]


def test_a_bad_clip_is_named_and_costs_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write_clip(tmp_path / "a.mkv", times=[0, 40]), tmp_path / "b.mkv"
    bad.write_bytes(b"no clip")
    assert main(compared([bad, good], tmp_path / "out")) == 1
    assert "b.mkv" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert list(report["clips"]) == ["a"]


def test_a_clip_below_the_asked_psnr_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "a.mkv", times=[0])
    assert main(compared([clip], tmp_path / "out", "--min-psnr", "99")) == 1
    assert "expected ≥ 99.00" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--drawn"], ["--html", "a.html"], ["--ground-truth", "."]])
def test_what_is_of_pictures_alone_is_refused(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "a.mkv", times=[0])
    assert f"{options[0]} with clips" in refused(compared([clip], tmp_path / "out", *options), capsys)


def test_a_moment_without_a_clip_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    words = compared([tmp_path / "a.png"], tmp_path / "out", "--end", "3")
    assert "options of clips without a clip" in refused(words, capsys)
