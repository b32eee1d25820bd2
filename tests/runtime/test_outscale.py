"""--outscale: any factor, by a last resize of what the model made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.packaged import REALESR_GENERAL
from passionsr_trt.runtime.main import main
from passionsr_trt.runtime.pictures.images import check_side, resized, resized_deep, to_image
from PIL import Image

ONNX = ("--engines", str(REALESR_GENERAL.folder / "int8"), "--provider", "cpu")


def picture(path: Path, deep: bool = False) -> Path:
    """A smooth one of 22×16 pixels, of 8 or of 16 bits."""
    ramp = np.add.outer(np.linspace(0, 30_000, 16), np.linspace(0, 30_000, 22))
    Image.fromarray(ramp.astype(np.uint16) if deep else (ramp / 257).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("deep", [False, True])
def test_the_result_is_the_model_s_by_lanczos(tmp_path: Path, deep: bool) -> None:
    source = picture(tmp_path / "a.png", deep)
    assert main(["infer", str(source), *ONNX]) == 0
    assert main(["infer", str(source), *ONNX, "--outscale", "2.5"]) == 0
    with Image.open(tmp_path / "a_x4.png") as made, Image.open(tmp_path / "a_x2.5.png") as image:
        assert image.mode == made.mode == ("I;16" if deep else "L") and image.size == (55, 40)
        form = "F" if deep else "L"
        expected = resized(Image.fromarray(np.asarray(made).astype(np.float32)).convert(form), (40, 55))
        error = np.abs(np.asarray(image).astype(float) - np.asarray(expected))
        assert error.max() <= 3 and error.mean() < 0.5, "grey is made of three channels, each rounded"


def test_all_channels_of_16_bits_are_resized_alike() -> None:
    ramp = np.linspace(0, 60_000, 8 * 8).reshape(8, 8)
    pixels = np.stack([ramp, ramp.T, ramp], axis=2).astype(np.uint16)
    large = resized_deep(pixels, (20, 12))
    assert large.dtype == np.uint16 and large.shape == (20, 12, 3) and np.array_equal(large[..., 0], large[..., 2])
    small = resized(to_image(pixels.transpose(2, 0, 1) / np.float32(32767.5) - 1), (20, 12))
    assert np.abs(large / 257 - np.asarray(small)).max() < 2  # 8 bits are rounded twice


@pytest.mark.parametrize("words", ["0.5", "17", "nan", "two"])
def test_a_factor_without_sense_is_wrong_usage(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["infer", "a.png", "--outscale", words])
    assert stop.value.code == 2 and "expected a number from 1 to 16" in capsys.readouterr().err


def test_what_no_file_or_memory_holds_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.webp"
    Image.new("RGB", (1200, 16)).save(source)
    assert main(["infer", str(source), *ONNX, "--outscale", "16"]) == 1
    assert "19200×256 pixels; .webp takes at most 16383 a side; write .png" in capsys.readouterr().err
    words = ["--outscale", "16", "--format", "png", "--memory", "0.01"]
    assert main(["infer", str(source), *ONNX, *words]) == 1
    assert "a smaller --outscale needs less" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]
    with pytest.raises(UserError, match="at most 65500"):
        check_side((8, 70_000), Path("a.JPG"))
