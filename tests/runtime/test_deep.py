"""16 bits a channel: in, out, and what is said where there is no room for them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.pictures.pictures import read_picture, upscale_deep
from passionsr_trt.runtime.main import main
from passionsr_trt.runtime.pictures.images import as_written, to_deep
from PIL import Image

from tests.conftest import Built
from tests.pictures import RNG, noise, png, written


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("orientation", [1, 6])
def test_sixteen_bits_stay(tmp_path: Path, channels: int, interlaced: bool, orientation: int) -> None:
    pixels = RNG.integers(256, 65536, (16, 24, channels)).astype(np.uint16)
    exif = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    path = png(tmp_path / "in.png", pixels, (b"eXIf", exif), interlaced=interlaced)
    picture = read_picture(path)
    upright = pixels if orientation == 1 else np.rot90(pixels, -1)
    assert picture.deep is not None and picture.notes == []
    assert np.array_equal(picture.deep[..., :1], upright[..., :1])
    assert np.array_equal(picture.deep[..., -1], upright[..., -1])
    assert np.array_equal(picture.rgb.getchannel(0), np.rint(upright[..., 0] / 257))
    written(picture, tmp_path / "out.png")
    again = read_picture(tmp_path / "out.png")
    assert again.deep is not None and np.array_equal(again.deep, picture.deep) and again.grey == (channels < 3)
    assert (tmp_path / "out.png").read_bytes()[24:26] == bytes([16, {1: 0, 2: 4, 3: 2, 4: 6}[channels]])


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_sixteen_bits_that_a_format_has_not_are_said(tmp_path: Path, suffix: str) -> None:
    picture = read_picture(png(tmp_path / "in.png", np.full((16, 24, 3), 0x8000, np.uint16)))
    assert as_written(picture, tmp_path / f"out{suffix}").notes == [
        "16 bits a channel reduced to 8: PNG keeps them"
    ]
    assert picture.rgb.getpixel((0, 0)) == (128, 128, 128)
    written(picture, tmp_path / f"out{suffix}")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_sixteen_bits_of_a_tiff(tmp_path: Path, order: str, photometric: int) -> None:
    """In two strips."""
    if (order, photometric) == (">", 0):
        pytest.skip("Pillow reads no such file")
    pixels = RNG.integers(0, 65536, (16, 24, 3 if photometric == 2 else 1)).astype(f"{order}u2")
    half = pixels.nbytes // 2
    lists = {258: (3, [16] * pixels.shape[2]), 273: (4, [512, 512 + half]), 279: (4, [half, half])}
    tags = {256: 24, 257: 16, 258: 16, 259: 1, 262: photometric, 273: 0, 277: pixels.shape[2], 278: 8, 279: 0}
    directory, values = struct.pack(f"{order}H", len(tags)), b""
    for tag, value in tags.items():
        kind, several = lists.get(tag, (3, [value]))
        if len(several) == 1:
            directory += struct.pack(f"{order}HHIHH", tag, 3, 1, several[0], 0)
        else:
            directory += struct.pack(f"{order}HHII", tag, kind, len(several), 400 + len(values))
            values += struct.pack(f"{order}{len(several)}{'H' if kind == 3 else 'I'}", *several)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8) + directory
    data = (start.ljust(400, b"\0") + values).ljust(512, b"\0") + pixels.tobytes()
    (tmp_path / "in.tif").write_bytes(data)
    picture = read_picture(tmp_path / "in.tif")
    expected = 65535 - pixels if photometric == 0 else pixels
    assert picture.deep is not None and np.array_equal(picture.deep, np.broadcast_to(expected, (16, 24, 3)))


def test_a_deep_colour_that_stands_for_nothing_is_alpha(tmp_path: Path) -> None:
    pixels = np.full((16, 24, 3), 0x1234, np.uint16)
    pixels[:8] += 1  # the same in 8 bits
    picture = read_picture(png(tmp_path / "in.png", pixels, (b"tRNS", struct.pack(">3H", *[0x1234] * 3))))
    assert picture.alpha is not None and np.array_equal(np.asarray(picture.alpha)[:, 0], [255] * 8 + [0] * 8)
    assert picture.deep is not None and (picture.deep[..., :3] == 0x1235).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_of_few_bits_that_stands_for_nothing_is_alpha(tmp_path: Path, bits: int) -> None:
    header = struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)
    row = bytes([0b00011011 if bits == 2 else 0x0F]) * (2 * bits)
    data = zlib.compress((b"\0" + row) * 16)
    key = {1: 1, 2: 2, 4: 15}[bits]
    parts = [(b"IHDR", header), (b"tRNS", struct.pack(">H", key)), (b"IDAT", data), (b"IEND", b"")]
    text = b"".join(
        struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts
    )
    (tmp_path / "in.png").write_bytes(b"\x89PNG\r\n\x1a\n" + text)
    alpha = read_picture(tmp_path / "in.png").alpha
    expected = {1: [255] * 4 + [0] * 4, 2: [255, 255, 0, 255] * 2, 4: [255, 0] * 4}[bits]
    assert alpha is not None and np.asarray(alpha)[0, :8].tolist() == expected


def test_what_cannot_be_had_in_sixteen_bits_is_said(tmp_path: Path) -> None:
    path = tmp_path / "in.ppm"
    path.write_bytes(b"P6 24 16 65535\n" + bytes(24 * 16 * 6))
    assert read_picture(path).notes == ["16 bits a channel reduced to 8"]


def test_deep_pictures_are_enlarged_as_the_others_are(small: Built, tmp_path: Path) -> None:
    """Values that 8 bits hold give what 8 bits give, but for how the enlargement is rounded; and 16 come out."""
    pixels = np.asarray(noise("RGB").resize((48, 32), Image.Resampling.BICUBIC))
    Image.fromarray(pixels).save(tmp_path / "shallow.png")
    png(tmp_path / "deep.png", pixels.astype(np.uint16) * 257)
    words = ["infer", str(tmp_path / "shallow.png"), str(tmp_path / "deep.png"), "-o", str(tmp_path / "out")]
    assert main([*words, "--engines", str(small.engines_fp32)]) == 0
    deep, shallow = (read_picture(tmp_path / "out" / name) for name in ("deep.png", "shallow.png"))
    assert shallow.deep is None and deep.deep is not None and (deep.deep % 257 != 0).any()
    difference = np.abs(np.asarray(deep.rgb, np.float32) - np.asarray(shallow.rgb, np.float32))
    assert difference.mean() < 2
    enlarged = to_deep(upscale_deep(deep.given, 2))  # type: ignore[arg-type]
    assert enlarged.shape == (128, 192, 3) and enlarged.dtype == np.uint16
