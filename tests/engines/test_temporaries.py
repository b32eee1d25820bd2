"""What a killed process left behind goes with the next run; what belongs to a living one stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.engines.bundle.manifest import atomic_folder, write_manifest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import HOST, OLD, prefix, sweep, temporary_folder
from passionsr_trt.engines.common.writing import check_writable, write_atomic
from passionsr_trt.engines.pictures.files import list_images


def ended_process() -> int:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    return int(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Temporaries of a process that is gone, of this one, of another machine, and what is none."""
    (tmp_path / f".passionsr-{HOST}-{ended_process()}-a.png").write_text("")
    half_built = tmp_path / f".passionsr-{HOST}-{ended_process()}-b"
    half_built.mkdir()
    (half_built / "unet.onnx").write_text("")
    (tmp_path / f"{prefix()}c.png").write_text("")
    (tmp_path / ".passionsr-01234567-1-d.png").write_text("")
    (tmp_path / ".mine.png").write_text("")
    return tmp_path


def test_only_what_is_stale_is_removed(folder: Path) -> None:
    sweep(folder)
    left = {path.name for path in folder.iterdir()}
    assert left == {f"{prefix()}c.png", ".passionsr-01234567-1-d.png", ".mine.png"}
    past = time.time() - OLD - 10
    os.utime(folder / ".passionsr-01234567-1-d.png", (past, past))
    sweep(folder)
    assert {path.name for path in folder.iterdir()} == {f"{prefix()}c.png", ".mine.png"}


def test_runs_begin_with_it(folder: Path) -> None:
    check_writable(folder)
    assert len(list(folder.iterdir())) == 3
    (folder / f".passionsr-{HOST}-{ended_process()}-e").mkdir()
    with atomic_folder(folder / "result", "calibration") as temporary:
        assert temporary.name.startswith(prefix())
    assert {path.name for path in folder.iterdir()} >= {"result"} and len(list(folder.iterdir())) == 4


def test_several_may_try_the_same_missing_folder_at_once(tmp_path: Path) -> None:
    missing = tmp_path / "out" / "pictures"

    def tries(number: int) -> None:
        for _ in range(50):
            check_writable(missing if number % 2 else missing / "deeper")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tries, range(8)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_makes_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, make = tmp_path / "out" / "pictures", tempfile.mkstemp

    def mkstemp(**where: Any) -> tuple[int, str]:
        missing.mkdir(parents=True, exist_ok=True)
        (missing / "theirs.png").write_text("")
        return make(**where)

    monkeypatch.setattr("passionsr_trt.engines.common.writing.tempfile.mkstemp", mkstemp)
    check_writable(missing)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "pictures", "theirs.png"]


@pytest.mark.parametrize("what", ["below a file", "a file", "a dead link", "too long"])
def test_what_can_be_no_folder_is_said_before_the_work(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    names = {"below a file": "file/out", "a file": "file", "a dead link": "link", "too long": "x" * 300}
    with pytest.raises(UserError, match=r"cannot be written \(.*\); expected a writable folder"):
        check_writable(tmp_path / names[what])
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_what_begins_with_a_dot_is_no_input(folder: Path) -> None:
    (folder / "picture.png").write_text("")
    assert [path.name for path in list_images([folder])] == ["picture.png"]


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    (tmp_path / f".passionsr-{HOST}-{ended_process()}-link").symlink_to(tmp_path / "kept")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept" / "file").is_file()


def test_the_system_s_folder_is_swept_and_nothing_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(KeyboardInterrupt), temporary_folder() as own:
        (own / "weights").write_text("")
        assert len(list(folder.iterdir())) == 4, "this process's two, the other machine's, the user's"
        raise KeyboardInterrupt
    assert {path.name for path in folder.iterdir()} >= {".mine.png"} and len(list(folder.iterdir())) == 3


def test_a_result_is_put_back_where_it_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, whole = tmp_path / "result", Path.replace
    with atomic_folder(target, "calibration") as temporary:
        write_manifest(temporary, {"kind": "calibration", "content": "old"})

    def ended(self: Path, other: Path) -> Path:
        if other == target and self.name.startswith(prefix()):
            raise KeyboardInterrupt
        return whole(self, other)

    monkeypatch.setattr(Path, "replace", ended)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, "calibration") as temporary:
        write_manifest(temporary, {"kind": "calibration", "content": "new"})
    assert json.loads((target / "manifest.json").read_text())["content"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_what_is_written_can_be_read_by_others(tmp_path: Path) -> None:
    write_atomic(tmp_path / "page.html", b"made")
    assert (tmp_path / "page.html").read_bytes() == b"made"
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o644 and len(list(tmp_path.iterdir())) == 1
