"""Images in and out: what is kept, what is said, what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.files import list_images
from passionsr_trt.engines.pictures.pictures import Picture, pad_to_multiple, read_picture, to_array
from passionsr_trt.runtime.pictures.images import save_image, to_image
from PIL import Image


def noise(mode: str, size: tuple[int, int] = (24, 16)) -> Image.Image:
    rng = np.random.default_rng(0)
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = rng.integers(0, 256, (size[1], size[0], bands), np.uint8)
    return Image.fromarray(pixels if bands > 1 else pixels[:, :, 0], mode)


def bomb(path: Path) -> None:
    """A valid PNG header of 30000×30000 pixels and almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))


def write_bad(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "truncated":
        noise("RGB", (64, 64)).save(path)
        path.write_bytes(path.read_bytes()[:500])
    else:
        bomb(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "not an image"),
        ("empty", "0 bytes"),
        ("pixel", "1×1 pixels"),
        ("truncated", "cannot be decoded"),
        ("bomb", "pixels"),
    ],
)
def test_bad_files_have_one_line(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "image.png"
    write_bad(path, kind)
    with pytest.raises(UserError, match=message) as raised:
        read_picture(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".png"), ("LA", ".png"), ("RGBA", ".png"), ("RGBA", ".webp")])
def test_grey_and_alpha_are_kept(tmp_path: Path, mode: str, suffix: str) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    noise(mode).save(source, lossless=True)
    picture = read_picture(source)
    save_image(picture.rgb, target, picture)
    with Image.open(target) as written:
        assert written.mode == mode
        if picture.alpha is not None:
            with Image.open(source) as original:
                assert np.array_equal(written.getchannel("A"), original.getchannel("A"))


def test_orientation_is_applied_and_the_profile_travels(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jpg", tmp_path / "out.png"
    image = noise("RGB", (40, 16))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(source, exif=exif, icc_profile=b"profile")
    picture = read_picture(source)
    assert picture.rgb.size == (16, 40)
    save_image(picture.rgb, target, picture)
    with Image.open(target) as written:
        assert written.info["icc_profile"] == b"profile"
        assert 0x0112 not in written.getexif()


def test_palette_images_become_rgb(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    noise("RGB").quantize(16).save(path)
    assert read_picture(path).rgb.mode == "RGB"


def test_arrays_and_images_are_inverse() -> None:
    image = noise("RGB")
    array = to_array(image)
    assert array.dtype == np.float32 and array.min() >= -1 and array.max() <= 1
    assert np.array_equal(to_image(array), image)
    assert np.asarray(to_image(np.full((3, 8, 8), 7.0))).max() == 255


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (65, 100), (300, 12)])
def test_padding_reaches_the_multiple_and_keeps_the_image(size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).random((3, *size), dtype=np.float32)
    padded = pad_to_multiple(array, 64)
    assert padded.shape[1] % 64 == padded.shape[2] % 64 == 0
    assert np.array_equal(padded[:, : size[0], : size[1]], array)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_image(noise("RGB"), tmp_path / "out.png", Picture(noise("RGB"), None, False, None))
    assert not list(tmp_path.iterdir())


def test_folders_give_their_images_and_nothing_else(tmp_path: Path) -> None:
    noise("RGB").save(tmp_path / "b.png")
    noise("RGB").save(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("")
    assert [path.name for path in list_images([tmp_path])] == ["a.jpg", "b.png"]
    with pytest.raises(UserError, match="no such file"):
        read_picture(tmp_path / "missing.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        list_images([tmp_path / "empty"])
