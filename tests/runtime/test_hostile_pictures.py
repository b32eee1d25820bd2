"""One picture never loses another, and none comes out wrong with exit 0."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.runtime.backends.openvino import OpenVINOEngine
from passionsr_trt.runtime.core import files
from passionsr_trt.runtime.main import main
from passionsr_trt.runtime.pictures.images import save_image
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from tests.conftest import Built


def infer(built: Built, output: Path, *words: str | Path) -> int:
    return main(["infer", *map(str, words), "-o", str(output), "--engines", str(built.engines_int8)])


@pytest.mark.parametrize(
    ("low", "high", "good"), [(0, 1, True), (0, 255, False), (-1, 1, False), (0, np.nan, False)]
)
def test_floats_are_taken_where_their_range_is_certain(
    tmp_path: Path, low: float, high: float, good: bool
) -> None:
    path = tmp_path / "float.tif"
    values = np.linspace(low, high if np.isfinite(high) else 1, 256, dtype=np.float32).reshape(16, 16)
    values[-1, -1] = high
    Image.fromarray(values).save(path)
    if good:
        found = np.asarray(read_picture(path).rgb)[..., 0]
        assert np.array_equal(found, np.rint(values * 255))
    else:
        with pytest.raises(UserError, match="expected 0 to 1; convert it"):
            read_picture(path)


def test_whole_numbers_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 1 << 20, np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(UserError, match="whole numbers from 1"):
        read_picture(tmp_path / "deep.tif")


def test_transparency_by_colour_is_alpha(tmp_path: Path) -> None:
    for mode in ("L", "RGB", "P"):
        path = tmp_path / f"{mode}.png"
        image = Image.new(mode, (16, 16))
        image.save(path, transparency=0 if mode != "RGB" else (0, 0, 0))
        alpha = read_picture(path).alpha
        assert alpha is not None and not np.asarray(alpha).any(), mode


def test_profiles_that_would_not_fit_the_result_are_left_out(tmp_path: Path) -> None:
    lab = tmp_path / "lab.tif"
    Image.new("LAB", (16, 16)).save(lab, icc_profile=b"profile of LAB")
    assert read_picture(lab).icc is None and "LAB converted to RGB" in read_picture(lab).notes
    large = tmp_path / "large.jpg"
    Image.new("RGB", (16, 16)).save(large, icc_profile=bytes(3 << 20))
    picture = read_picture(large)
    assert picture.icc is None and "colour profile" in picture.notes[0]
    save_image(Image.new("RGB", (16, 16)), tmp_path / "out.png", picture)
    assert read_picture(tmp_path / "out.png").rgb.size == (16, 16)


def test_other_formats_under_a_promised_name_are_refused(tmp_path: Path) -> None:
    for kind in ("ICO", "PCX", "TGA", "DDS"):
        Image.new("RGB", (16, 16)).save(tmp_path / "image.png", format=kind)
        with pytest.raises(UserError, match="not an image that can be read"):
            read_picture(tmp_path / "image.png")


def test_whatever_a_decoder_raises_is_that_picture_s_line(
    small: Built, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(photo, folder / name)
    original = PngImageFile.load

    def load(image: Any) -> Any:
        if getattr(image, "filename", "").endswith("b.png"):
            raise RuntimeError("a decoder's own trouble\nin two lines")
        return original(image)

    monkeypatch.setattr(PngImageFile, "load", load)
    assert infer(small, tmp_path / "out", folder) == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png"]
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "b.png: cannot be decoded (a decoder's own trouble)" in errors[0]


def test_memory_is_decided_from_the_header(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("1", (7000, 7000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(files, "read_picture", lambda _path: pytest.fail("was decoded"))
    assert infer(small, tmp_path / "out", tmp_path / "bomb.png", "--memory", "0.5") == 1
    told = capsys.readouterr().err
    assert f"error: {tmp_path / 'bomb.png'}: an image of 14016×14016 pixels takes" in told, "the picture is named"
    assert "GiB at least; 0.50 GiB may be taken" in told


def test_what_is_no_number_is_no_picture(
    small: Built, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = OpenVINOEngine.run
    monkeypatch.setattr(OpenVINOEngine, "run", lambda *words: original(*words) * np.float32(np.nan))
    assert infer(small, tmp_path / "out", photo) == 1
    assert "gave what is no number; expected a picture" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_resume_does_again_what_is_no_whole_picture(small: Built, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert infer(small, out, photo) == 0
    whole = (out / "chelsea.png").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"text"):
        (out / "chelsea.png").write_bytes(damaged)
        assert infer(small, out, photo, "--resume") == 0
        assert (out / "chelsea.png").read_bytes() == whole


@pytest.mark.parametrize(
    "words",
    [["-o", ""], ["--threads", "2147483648"], ["--threads", "9" * 5000], ["--seed", "-1"], ["--memory", "nan"]],
)
def test_values_out_of_range_are_usage_errors(small: Built, photo: Path, tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        infer(small, tmp_path / "out", photo, *words)
    assert stop.value.code == 2


def test_a_name_never_reaches_the_terminal_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["infer", "x.png", "-o", str(tmp_path), "--engines", "no\x1b[31m\nsuch"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "\x1b" not in error and error.count("\n") == 1 and "no\\x1b[31m\\nsuch" in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_and_a_poor_locale_lose_no_picture(small: Built, photo: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "passionsr_trt.runtime.main", "infer", str(photo), "--engines"]
    words += [str(small.engines_int8), "-o"]
    poor = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([*words, str(tmp_path / "1.png")], env=poor, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*words, str(tmp_path / "2.png")], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"error: " in done.stderr
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
