"""Calibration images are prepared as the runtime prepares them; ordinary ones as they always were."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import PartInfo, TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures import pictures as images
from passionsr_trt.engines.pictures.files import SUFFIXES
from passionsr_trt.engines.pictures.pictures import pad_to_multiple
from passionsr_trt.export.calibrate.data import calibration_files, drawn_sources, load_sources
from PIL import Image

from tests.conftest import DEMO


def chain(factor: int) -> Any:
    """A model of one source, `image`, whose sides are multiples of 64."""
    part = PartInfo("part", "", (TensorInfo("image", 3, 1),), TensorInfo("out", 3, 1), 64)
    return SimpleNamespace(upscale=factor, parts=(part,), draws_noise=False)


def load_image(path: Path, factor: int) -> torch.Tensor:
    return load_sources(path, chain(factor))["image"]


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)


def rotated(path: Path) -> None:
    image = Image.fromarray(noise((40, 24)))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(noise((40, 24))[..., 0].astype(np.uint16) * 256).save(path)


def smallest(path: Path) -> None:
    Image.fromarray(noise((8, 8))).save(path)


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("write", [rotated, sixteen_bits, smallest])
def test_calibration_sees_what_the_runtime_will(tmp_path: Path, write: Any, factor: int) -> None:
    path = tmp_path / "image.png"
    write(path)
    found = load_image(path, factor)
    source = images.to_array(images.upscale(images.read_picture(path).rgb, factor))
    assert np.array_equal(found.numpy(), pad_to_multiple(source, 64)[None])


def test_rotation_and_depth_are_heeded(tmp_path: Path) -> None:
    rotated(tmp_path / "rotated.png")
    assert load_image(tmp_path / "rotated.png", 4).shape == (1, 3, 192, 128)
    sixteen_bits(tmp_path / "deep.png")
    deep = load_image(tmp_path / "deep.png", 1)[0, :, :24, :40]
    assert deep.min() < -0.9 and abs(float(deep.mean())) < 0.1, "neither white nor black"


def before(path: Path, factor: int) -> torch.Tensor:
    """How it prepared an image when the committed calibrations were made, word for word."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    rgb = rgb.resize((rgb.width * factor, rgb.height * factor), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).reshape(rgb.height, rgb.width, 3)
    tensor = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0
    pad = (0, -tensor.shape[3] % 64, 0, -tensor.shape[2] % 64)
    return torch.nn.functional.pad(tensor, pad, mode="reflect") if any(pad) else tensor


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("name", ["calib/lr", "photos/lr"])
def test_ordinary_images_are_prepared_as_ever(name: str, factor: int) -> None:
    """To the bit, and laid out alike in memory, by which convolutions round their last bits."""
    for path in calibration_files(DEMO / name, 3):
        found, expected = load_image(path, factor), before(path, factor)
        assert torch.equal(found, expected) and found.stride() == expected.stride(), path


def test_every_byte_becomes_the_same_number(tmp_path: Path) -> None:
    path = tmp_path / "bytes.png"
    ramp = np.arange(256, dtype=np.uint8).reshape(4, 64).repeat(16, axis=0)
    Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1)).save(path)
    found, expected = load_image(path, 1), before(path, 1)
    assert torch.equal(found, expected) and found.stride() == expected.stride(), "64×64: nothing is padded"


def test_calibration_takes_every_suffix_of_the_runtime(tmp_path: Path) -> None:
    written = set()
    for suffix in SUFFIXES:
        with suppress(OSError, KeyError, ValueError):  # some are read and not written
            Image.fromarray(noise((16, 16))).save(tmp_path / f"image{suffix}")
            written.add(suffix)
    assert written >= {".png", ".jpg", ".webp", ".bmp", ".tif"}
    for path in tmp_path.glob("image*"):
        if path.suffix not in written:
            path.unlink()
    (tmp_path / "notes.txt").write_text("")
    assert {path.suffix for path in calibration_files(tmp_path, 100)} == written
    assert len(calibration_files(tmp_path, 2)) == 2
    with pytest.raises(UserError, match="no such folder"):
        calibration_files(tmp_path / "missing", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        calibration_files(tmp_path / "empty", 1)


def test_what_cannot_be_read_gives_its_place_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "c.png", "sub/d.png", "sub/e.png"):
        Image.fromarray(noise((16, 16))).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:90])
    (tmp_path / "broken.png").symlink_to("nowhere")
    assert [path.name for path in calibration_files(tmp_path, 3)] == ["a.png", "c.png", "d.png"]
    told = capsys.readouterr().err
    assert "1 file left out: 1 broken link" in told and "left out: " in told and "b.png: cannot be decoded" in told
    assert "error" not in told and "one colour" not in told
    for name in ("a.png", "c.png", "sub/d.png"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "sub" / "e.png").unlink()
    with pytest.raises(UserError, match="none of its 4 pictures can be read"):
        calibration_files(tmp_path, 3)


def test_pictures_of_one_colour_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "black.png")
    Image.fromarray(noise((16, 16))).save(tmp_path / "photo.png")
    assert len(calibration_files(tmp_path, 9)) == 2
    assert "warning: 1 of 2 pictures are of one colour" in capsys.readouterr().err


def test_a_low_resolution_source_is_mirrored_out_beside_the_image(tmp_path: Path) -> None:
    """Both stand for the same pixels: `lr` [1, 3, H/4, W/4] of `image` [1, 3, H, W]; noise is its mean, 0."""
    smallest(tmp_path / "image.png")
    inputs = (TensorInfo("lr", 3, 4), TensorInfo("image", 3, 1), TensorInfo("noise", 4, 8))
    part = PartInfo("part", "", inputs, TensorInfo("out", 3, 1), 64)
    model: Any = SimpleNamespace(upscale=4, parts=(part,), draws_noise=False)
    made = load_sources(tmp_path / "image.png", model)
    assert {name: tuple(x.shape) for name, x in made.items()} == {
        "lr": (1, 3, 16, 16),
        "image": (1, 3, 64, 64),
        "noise": (1, 4, 8, 8),
    }
    small = torch.from_numpy(images.to_array(images.read_picture(tmp_path / "image.png").rgb))
    assert torch.equal(made["lr"][0, :, :8, :8], small)
    assert torch.equal(made["lr"][0, :, 8, :8], small[:, 6]), "mirrored without repeating the edge"
    assert not made["noise"].any()


def test_noise_that_a_model_draws_is_every_images_own(tmp_path: Path) -> None:
    part = PartInfo("part", "", (TensorInfo("noise", 3, 4),), TensorInfo("out", 3, 1), 64)
    model: Any = SimpleNamespace(upscale=4, parts=(part,), draws_noise=True)
    drawn = []
    for write in (smallest, smallest, sixteen_bits):
        write(tmp_path / "image.png")
        drawn.append(load_sources(tmp_path / "image.png", model)["noise"][:, :, :16, :16])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert 0.9 < float(drawn[0].std()) < 1.1


def test_drawn_pictures_have_the_share_that_was_asked_for_and_photos_none() -> None:
    model, photos = chain(4), calibration_files(DEMO / "photos" / "lr", 7)
    for share, count in ((0.0, 0), (0.3, 3), (0.5, 7)):
        spec = QuantSpec(pictures="any", synthetic=share)
        drawn, again = (drawn_sources(photos, model, spec, 128) for _time in range(2))
        assert len(drawn) == count
        for other in ({"pictures": "photos"}, {"method": "range"}, {"method": "smoothquant"}):
            assert not drawn_sources(photos, model, replace(spec, **other), 128)
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(drawn, again, strict=True))
    assert {tuple(sources["image"].shape) for sources in drawn} == {(1, 3, 128, 128)}
    with pytest.raises(UserError, match=r"synthetic is 1\.0; expected 0 to 0\.9"):
        QuantSpec(synthetic=1.0)
