"""What goes along beside the pixels, and what is said where it does not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.runtime.pictures.images import as_written
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.pictures import RNG, noise, png, written


@pytest.mark.parametrize("gamma", [1.0, 0.55, 0.3])
def test_gamma_is_converted(tmp_path: Path, gamma: float) -> None:
    pixels = np.arange(16 * 24 * 3, dtype=np.int64).reshape(16, 24, 3) % 256
    chunk = (b"gAMA", struct.pack(">I", round(gamma * 1e5)))
    picture = read_picture(png(tmp_path / "in.png", pixels.astype(np.uint8), chunk))
    light = (pixels / 255) ** (1 / gamma)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(picture.rgb) - 255 * srgb).max() <= 0.5
    assert picture.notes == [f"gAMA of {gamma:g} converted to sRGB"]
    assert "gamma" not in written(picture, tmp_path / "out.png").info
    deep = read_picture(png(tmp_path / "deep.png", pixels.astype(np.uint16) * 257, chunk))
    assert deep.deep is not None and np.abs(deep.deep - 65535 * srgb).max() <= 0.5


@pytest.mark.parametrize(
    ("chunks", "notes"),
    [
        ([(b"gAMA", struct.pack(">I", 45455))], []),
        ([(b"gAMA", struct.pack(">I", 0))], ["gAMA of 0 left out"]),
        ([(b"gAMA", struct.pack(">I", 2**32 - 1))], ["gAMA of 42949.7 left out"]),
        ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))], []),
        ([(b"cHRM", bytes(32))], ["a damaged cHRM left out"]),
        ([(b"cICP", b"\x09\x10\x00\x01"), (b"gAMA", struct.pack(">I", 100000))], []),
        ([(b"iCCP", b"name\0\0no stream")], ["a damaged colour profile left out"]),
        ([(b"sRGB", b"\x04")], ["a damaged sRGB left out"]),
    ],
)
def test_gamma_that_is_none_changes_nothing(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], notes: list[str]
) -> None:
    pixels = RNG.integers(0, 256, (16, 24, 3), np.uint8)
    picture = read_picture(png(tmp_path / "in.png", pixels, *chunks))
    assert np.array_equal(picture.rgb, pixels) and picture.notes == notes


def test_colour_chunks_go_along(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (16, 24, 3), np.uint8)
    primaries = struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)
    for chunks in (
        [(b"sRGB", b"\1")],
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"cICP", b"\x0c\x0d\x00\x01")],
        [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", primaries)],
    ):
        picture = read_picture(png(tmp_path / "in.png", pixels, *chunks))
        written(picture, tmp_path / "out.png")
        out = (tmp_path / "out.png").read_bytes()
        assert all(name + data in out for name, data in chunks)
    assert as_written(picture, tmp_path / "a.webp").notes == ["primaries (cHRM) left out: PNG keeps them"]
    linear = [(b"gAMA", struct.pack(">I", 100000)), (b"cHRM", primaries)]
    image = written(read_picture(png(tmp_path / "in.png", pixels, *linear)), tmp_path / "out.png")
    assert image.info["gamma"] == 0.45455 and "chromaticity" in image.info


@pytest.mark.parametrize("deep", [False, True])
def test_texts_resolution_and_xmp_go_along(tmp_path: Path, deep: bool) -> None:
    info = PngInfo()
    info.add_text("Title", "café")
    info.add_itxt("Author", "作者", "zh", "作者")
    info.add_text("Comment", "x" * 5000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta tiff:Orientation='6' a='1'/>")
    source = noise("L")
    if deep:
        source = Image.fromarray(np.asarray(source).astype(np.uint16) * 250)
    source.save(tmp_path / "in.png", pnginfo=info, dpi=(300, 299))
    picture = read_picture(tmp_path / "in.png")
    assert picture.notes == [] and (picture.deep is not None) == deep
    image = written(picture, tmp_path / "out.png")
    assert image.text["Title"] == "café" and image.text["Author"] == "作者"  # type: ignore[attr-defined]
    assert image.text["Author"].lang == "zh" and image.text["Comment"] == "x" * 5000  # type: ignore[attr-defined]
    assert image.text["XML:com.adobe.xmp"] == "<x:xmpmeta a='1'/>"  # type: ignore[attr-defined]
    assert [round(side) for side in image.info["dpi"]] == [300, 299]
    notes = as_written(picture, tmp_path / "out.jpg").notes
    assert notes[-1] == "2 texts left out: PNG keeps them"
    image = written(picture, tmp_path / "out.jpg")
    assert image.info["dpi"] == (300, 299) and image.info["comment"] == b"x" * 5000
    written(picture, tmp_path / "out.webp")
    assert b"<x:xmpmeta a='1'/>" in (tmp_path / "out.webp").read_bytes()


def test_texts_beyond_bounds_are_left_out_and_said(tmp_path: Path) -> None:
    info = PngInfo()
    for index in range(3):
        info.add_text(f"text {index}", "x" * 500_000, zip=True)
    noise().save(tmp_path / "in.png", pnginfo=info)
    picture = read_picture(tmp_path / "in.png")
    assert picture.notes == ["texts of 1.5 MB left out"] and not picture.metadata.texts
    xmp = b"<x>" + b"y" * 70_000 + b"</x>"
    noise().save(tmp_path / "in.webp", xmp=xmp)
    picture = read_picture(tmp_path / "in.webp")
    assert as_written(picture, tmp_path / "a.jpg").notes == ["XMP left out: too long for JPEG"]
    written(picture, tmp_path / "a.jpg")
    image = written(picture, tmp_path / "a.png")
    assert image.text["XML:com.adobe.xmp"].encode() == xmp  # type: ignore[attr-defined]


def test_exif_as_text_turns_a_picture_once(tmp_path: Path) -> None:
    """ImageMagick writes EXIF into a text: kept as text, the result would be turned again."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "told"
    info = PngInfo()
    data = exif.tobytes()
    info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n")
    noise().save(tmp_path / "in.png", pnginfo=info)
    picture = read_picture(tmp_path / "in.png")
    image = written(picture, tmp_path / "out.png")
    assert image.size == (16, 24) == picture.rgb.size
    assert 0x0112 not in image.getexif() and image.getexif()[0x010E] == "told"
    assert not image.text  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["gamma", "srgb", "chromaticity", "transparency", "icc_profile", "dpi"])
def test_a_text_under_a_name_of_pillow_s_own_is_no_such_thing(tmp_path: Path, name: str) -> None:
    pixels = RNG.integers(0, 256, (16, 24, 3), np.uint8)
    picture = read_picture(png(tmp_path / "in.png", pixels, (b"tEXt", name.encode() + b"\0value")))
    assert np.array_equal(picture.rgb, pixels) and picture.notes == [f"text named {name} left out"]
    assert not written(picture, tmp_path / "out.png").text  # type: ignore[attr-defined]


def test_what_a_tiff_says_is_left_out_and_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "described", "somebody"
    noise().save(tmp_path / "in.tif", exif=exif)
    assert read_picture(tmp_path / "in.tif").notes == ["description, artist left out"]
    wide = Image.fromarray(RNG.integers(0, 256, (16, 24, 4), np.uint8), "RGBX")
    wide.save(tmp_path / "wide.tif")
    assert read_picture(tmp_path / "wide.tif").notes == ["further channels left out"]


def test_a_profile_of_other_channels_is_left_out_and_said(tmp_path: Path) -> None:
    profile = bytes(16) + b"GRAY" + bytes(200)
    noise("L").save(tmp_path / "in.png", icc_profile=profile)
    picture = read_picture(tmp_path / "in.png")
    assert written(picture, tmp_path / "out.png").info["icc_profile"] == profile
    assert as_written(picture, tmp_path / "out.webp").notes == ["a colour profile of other channels left out"]
    assert "icc_profile" not in written(picture, tmp_path / "out.webp").info


def test_a_coding_of_colours_is_kept_in_png_alone_and_a_void_srgb_leaves_gamma(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (16, 24, 3), np.uint8)
    picture = read_picture(png(tmp_path / "in.png", pixels, (b"sRGB", b"\0"), (b"cICP", b"\x09\x10\x00\x01")))
    assert as_written(picture, tmp_path / "a.jpg").notes == ["coding of colours (cICP) left out: PNG keeps it"]
    picture = read_picture(png(tmp_path / "in.png", pixels, (b"cICP", b"\x01\x0d\x00\x01")))
    assert as_written(picture, tmp_path / "a.jpg").notes == [], "sRGB's own is no loss"
    for unsound in (b"", b"\x09\x10\x01\x01", bytes(5)):
        picture = read_picture(png(tmp_path / "in.png", pixels, (b"cICP", unsound)))
        assert picture.metadata.chunks == []
    void = [(b"sRGB", b"\x09"), (b"gAMA", struct.pack(">I", 100000))]
    notes = read_picture(png(tmp_path / "in.png", pixels, *void)).notes
    assert notes == ["a damaged sRGB left out", "gAMA of 1 converted to sRGB"]


def test_no_resolution_is_made_up(tmp_path: Path) -> None:
    noise().save(tmp_path / "in.tif")
    assert read_picture(tmp_path / "in.tif").metadata.dpi is None
    noise().save(tmp_path / "in.tif", dpi=(300, 299))
    assert read_picture(tmp_path / "in.tif").metadata.dpi == (300, 299)


def test_texts_without_a_name_that_png_takes_are_said(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (16, 24, 3), np.uint8)
    texts = [(b"tEXt", b"k" * 80 + b"\0v"), (b"tEXt", b"k" * 79 + b"\0v")]
    picture = read_picture(png(tmp_path / "in.png", pixels, *texts))
    assert picture.notes == ["1 text left out: a name has 1 to 79 characters"]
    assert list(picture.metadata.texts) == ["k" * 79]
