"""Folders are walked, nothing that looks like a picture is passed over in silence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import install
from passionsr_trt.engines.pictures import files as picture_files
from passionsr_trt.engines.pictures.files import LeftOut, find_pictures, list_images, suffix_of, walk


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names(folder: Path, output: Path | None = None) -> list[str]:
    return [found.name for found in find_pictures([folder], output)[0]]


def test_sub_folders_are_walked_in_order_and_hidden_ones_are_not(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a.JPG", "z/a.webp", "c/d/e.tif", "c/b.bmp", ".git/a.png", "n.txt", "..png")
    assert names(tmp_path) == ["a.JPG", "b.png", "c/b.bmp", "c/d/e.tif", "z/a.webp"]
    assert list_images([tmp_path / "c", tmp_path / "gone.png"])[-1] == tmp_path / "gone.png"
    assert [found.walked for found in find_pictures([tmp_path / "z", tmp_path / "b.png"])[0]] == [True, False]


def test_names_that_end_in_a_dot_or_a_space_and_odd_ones(tmp_path: Path) -> None:
    odd = ["a.png ", "a.png.", "\u202egnp.png", "\N{GRINNING FACE}.png", "\n.png", os.fsdecode(b"\xff.png")]
    put(tmp_path, *odd)
    assert sorted(names(tmp_path)) == sorted(odd)
    assert suffix_of(".png") == suffix_of("...") == suffix_of("png") == ""


def test_a_path_that_cannot_be_asked_costs_no_other_picture(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    assert len(list_images([tmp_path / "a.png", tmp_path / ("x" * 300 + ".png")])) == 2


def test_the_output_folder_and_links_to_folders_are_not_walked(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.png", "out/a.png", "sub/b.png")
    (tmp_path / "in" / "sub" / "up").symlink_to("..")
    (tmp_path / "in" / "elsewhere.png").symlink_to("sub")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    found, left = find_pictures([tmp_path / "in"], tmp_path / "in" / "sub" / ".." / "out")
    assert [picture.name for picture in found] == ["a.png", "sub/b.png"]
    assert left.line() == "3 files left out: 3 links to folders"
    left = find_pictures([tmp_path / "in"], tmp_path / "other")[1]
    assert left.line() == "2 files left out: 2 links to folders", "the output by a link is no surprise"
    assert names(tmp_path / "in" / "link" / ".." / "in", tmp_path / "in")[0] == "a.png", "the folder itself is"


def test_what_is_left_out_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files, "SUFFIXES", (".png",))
    put(tmp_path, "a.png", "b.heic", "c.HEIC", "sub/d.cr2", ".e.png", ".passionsr-1.png", "f.txt", ".g")
    (tmp_path / "g.png").symlink_to("nowhere")
    (tmp_path / "h.png").symlink_to("h.png")
    (tmp_path / "i").symlink_to("nowhere")
    os.mkfifo(tmp_path / "j.png")
    found, left = find_pictures([tmp_path])
    assert [picture.name for picture in found] == ["a.png"]
    assert left.line() == (
        f"7 files left out: 1 .cr2, 2 .heic ({install('heic')}), 2 broken links, "
        "1 whose name begins with a dot, 1 that is no file"
    )
    assert LeftOut().line() == ""
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"holds no image; expected PNG, .*; 7 files left out: 1 \.cr2"):
        find_pictures([tmp_path])


def test_a_folder_that_cannot_be_read_is_told_and_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/a.png", "b/b.png", "c/c.png")
    scan = os.scandir

    def refusing(path: str) -> Any:
        if path.rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("os.scandir", refusing)
    found, left = find_pictures([tmp_path])
    assert [picture.name for picture in found] == ["a/a.png", "c/c.png"]
    assert left.folders == [f"{tmp_path}/b/: cannot be read (Permission denied)"]
    with pytest.raises(UserError, match="cannot be read"):
        list(walk(str(tmp_path / "b"), left))
