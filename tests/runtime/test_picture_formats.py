"""Which files are read: formats, frames, modes."""

from __future__ import annotations

import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import install
from passionsr_trt.engines.pictures import files as picture_files
from passionsr_trt.engines.pictures.files import SUFFIXES
from passionsr_trt.engines.pictures.pictures import header_size, read_picture
from PIL import Image

from tests.pictures import SIZE, noise, png


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".gif", {}), (".jfif", {}), (".jp2", {}), (".j2k", {}), (".tga", {}), (".ppm", {}), (".bmp", {}),
        (".avif", {}), (".mpo", {}), (".apng", {"format": "PNG"}), (".tif", {"compression": "tiff_lzw"}),
    ],
)  # fmt: skip
def test_what_pillow_reads_is_read(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    if suffix not in SUFFIXES:
        pytest.skip(f"this Pillow reads no {suffix}")
    path = tmp_path / f"image{suffix}"
    noise().save(path, **options)
    with Image.open(path) as image:
        assert np.array_equal(read_picture(path).rgb, image.convert("RGB"))
    assert header_size(path) == (16, 24)


def test_decoders_are_those_of_the_list() -> None:
    """Ghostscript is never run, and what Pillow learns is not read by itself."""
    assert not {".eps", ".ps", ".pdf", ".psd", ".wmf", ".mpg", ".fits", ".h5"} & set(SUFFIXES)
    allowed = {*picture_files.DECODERS, *picture_files.DECODER_PACKAGES}
    assert set(picture_files.formats_for(Path("image.eps"))) <= allowed - {"TGA"}


def test_a_format_without_a_mark_is_read_by_its_name_alone(tmp_path: Path) -> None:
    noise().save(tmp_path / "image.tga")
    (tmp_path / "image.tga").rename(tmp_path / "image.png")
    with pytest.raises(UserError, match="not an image that can be read"):
        read_picture(tmp_path / "image.png")


@pytest.mark.parametrize("suffix", [".heic", ".jxl"])
def test_what_would_read_a_picture_is_said(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    if suffix in SUFFIXES:
        pytest.skip("can be read here")
    with pytest.raises(UserError, match=rf"; ({re.escape(install('heic'))}|pip install pillow-jxl-plugin)$"):
        read_picture(path)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("a.gif", "1 of 3 frames"), ("a.webp", "1 of 3 frames"), ("a.png", "1 of 3 frames"),
        ("a.tif", "1 of 3 pages"), ("a.mpo", "1 of 3 pictures"),
    ],
)  # fmt: skip
def test_that_there_are_more_frames_is_said(tmp_path: Path, name: str, note: str) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / name)
    assert picture.notes == [note]
    red, green, blue = picture.rgb.getpixel((5, 5))
    assert red > 240 and green < 10 and blue < 10


def test_a_damaged_second_page_costs_the_first_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [noise(), noise()]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    path.write_bytes(path.read_bytes()[:-200])
    assert np.array_equal(read_picture(path).rgb, pages[0])


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "1", "L", "P", "RGB"])
def test_every_mode_of_a_tiff_is_read(tmp_path: Path, mode: str) -> None:
    buffer = BytesIO()
    Image.new(mode, SIZE).save(buffer, "TIFF")
    (tmp_path / "in.tif").write_bytes(buffer.getvalue())
    assert read_picture(tmp_path / "in.tif").rgb.size == SIZE


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_turned_tiff_is_upright(tmp_path: Path, mode: str, compression: str | None, orientation: int) -> None:
    """Pillow scrambled those that it mapped into memory: without compression, of one channel or four."""
    image = noise("L" if mode == "I;16" else mode)
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
    image.save(tmp_path / "in.tif", compression=compression, tiffinfo={274: orientation})
    path = tmp_path / "in.tif"
    picture = read_picture(path)
    expected = np.rot90(np.asarray(image), {1: 0, 3: 2, 6: -1}[orientation])
    found = picture.rgb if picture.deep is None else picture.deep
    assert np.array_equal(np.asarray(found)[..., 0], expected if expected.ndim == 2 else expected[..., 0])
    assert header_size(path) == expected.shape[:2]


def test_a_name_that_ends_in_a_space_tells_a_format_too(tmp_path: Path) -> None:
    noise().save(tmp_path / "image.tga ", format="TGA")
    assert read_picture(tmp_path / "image.tga ").rgb.size == SIZE


SEVEN = (
    b"II*\0\x08\0\0\0\x03\0" + b"\0\1\3\0\1\0\0\0\x10\0\0\0" + b"\1\1\3\0\1\0\0\0\x10\0\0\0"
    b"\x15\1\3\0\1\0\0\0\x07\0\0\0" + bytes(4)
)  # a TIFF of 16×16 pixels with seven channels


def test_what_begins_as_a_picture_is_no_stranger(tmp_path: Path) -> None:
    """It is not told to be none of what is expected."""
    (tmp_path / "a.tif").write_bytes(SEVEN)
    png(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8), (b"gAMA", b"\0"))
    for name, kind in (("a.tif", "TIFF"), ("a.png", "PNG")):
        with pytest.raises(UserError, match=f"a {kind} that is damaged, or of a kind that cannot be read"):
            read_picture(tmp_path / name)


def test_what_pillow_logs_is_not_on_stderr(tmp_path: Path) -> None:
    """By itself logging writes what nobody handles, without the picture's name and beside the progress bar."""
    (tmp_path / "seven.tif").write_bytes(SEVEN)
    code = "import sys; from pathlib import Path; from passionsr_trt.engines.pictures.pictures import header_size"
    command = [sys.executable, "-c", f"{code}; print(header_size(Path(sys.argv[1])))", str(tmp_path / "seven.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(0, 0)\n", "")


def test_a_file_that_the_system_does_not_give_is_not_told_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise().save(tmp_path / "a.png")

    def closed(*_given: Any, **_options: Any) -> Any:
        raise PermissionError(13, "Permission denied", "a.png")

    monkeypatch.setattr(Image, "open", closed)
    with pytest.raises(UserError, match=r"a\.png: cannot be read \(Permission denied\)"):
        read_picture(tmp_path / "a.png")
