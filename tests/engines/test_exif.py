"""EXIF that goes along with a result: what it says is kept byte for byte, but for what the result says itself."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from passionsr_trt.engines.pictures.metadata import EXIF_HEADER, MOST_EXIF, without_geometry
from PIL import ExifTags, Image

AUTHOR = "Ångström".encode()  # Pillow itself would write question marks


def written(order: str = "II", author: bytes = AUTHOR) -> bytes:
    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageWidth] = 48
    exif[ExifTags.Base.Artist] = "x" * len(author)
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    inner[ExifTags.Base.ExifImageWidth] = 48
    inner[ExifTags.Base.MakerNote] = bytes(range(200))
    inner[ExifTags.Base.DateTimeOriginal] = "2020:02:03 04:05:06"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (1.0, 2.0, 3.5)
    return exif.tobytes().replace(b"x" * len(author), author)


@pytest.mark.parametrize("order", ["II", "MM"])
def test_all_is_kept_but_orientation_and_sizes(order: str) -> None:
    data = written(order)
    assert data.removeprefix(EXIF_HEADER)[:2] == order.encode()
    kept = without_geometry(data)
    assert kept is not None and len(kept) == len(data) and AUTHOR in kept
    for form in ("JPEG", "PNG", "WEBP"):
        file = BytesIO()
        Image.new("RGB", (8, 8)).save(file, form, exif=kept)
        found = Image.open(file).getexif()
        assert set(found) == {ExifTags.Base.Artist, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
        inner = found.get_ifd(ExifTags.IFD.Exif)
        assert inner[ExifTags.Base.MakerNote] == bytes(range(200)) and ExifTags.Base.ExifImageWidth not in inner
        assert inner[ExifTags.Base.DateTimeOriginal] == "2020:02:03 04:05:06"
        assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (1.0, 2.0, 3.5)


def test_an_orientation_alone_leaves_nothing() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    assert without_geometry(exif.tobytes()) is None


@pytest.mark.parametrize("data", [b"", b"Exif", EXIF_HEADER + b"XX*\x00" + bytes(20), written()[:40], bytes(8)])
def test_what_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        without_geometry(data)


def test_what_no_jpeg_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        without_geometry(written(author=b"a" * MOST_EXIF))


@given(st.integers(0, 400), st.binary(max_size=40))
def test_whatever_is_broken_is_refused_or_can_be_written(place: int, damage: bytes) -> None:
    data = bytearray(written())
    data[place : place + len(damage)] = damage
    try:
        kept = without_geometry(bytes(data))
    except ValueError:
        return
    if kept is not None:
        Image.new("RGB", (8, 8)).save(BytesIO(), "JPEG", exif=kept)
