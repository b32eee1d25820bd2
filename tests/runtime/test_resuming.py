"""--resume leaves out what these engines made of what the picture still is, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.engines.pictures.files import find_pictures
from passionsr_trt.runtime.apps.batch import ledger
from passionsr_trt.runtime.apps.batch.ledger import OWN
from passionsr_trt.runtime.apps.notes import Notes, resumed

from tests.conftest import Built
from tests.runtime.test_infer import infer

PICTURE: Any = object()


def made(folder: Path, names: list[str], config: str = "c") -> tuple[Notes, dict[Path, Path]]:
    """Notes of pictures in folder/in and their outputs in folder/out."""
    notes = Notes(folder / "out", config, keep=True)
    pairs = {}
    for name in names:
        source, target = folder / "in" / name, folder / "out" / name
        for path in (source, target):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.parent.name} {name}")
        notes.reading(lambda _source: PICTURE, source)
        notes.note(source, target)
        pairs[source] = target
    notes.close()
    return Notes(folder / "out", config, keep=True), pairs


CHANGES: dict[str, tuple[Callable[[Path, Path], Any], str | None]] = {
    "nothing": (lambda _source, _target: None, None),
    "times": (lambda source, target: [os.utime(path, (1, 1)) for path in (source, target)], None),
    "copied": (lambda source, _target: shutil.copy(shutil.copy(source, source.parent / "copy"), source), None),
    "source": (lambda source, _target: source.write_text("in b.png"), "source"),
    "longer": (lambda source, _target: source.write_text("other"), "source"),
    "source gone": (lambda source, _target: source.unlink(), "source"),
    "output": (lambda _source, target: target.write_text("out b.png"), "output"),
    "cut": (lambda _source, target: target.write_text("out"), "output"),
    "gone": (lambda _source, target: target.unlink(), ""),
    "link": (lambda _source, target: (target.unlink(), target.symlink_to("nowhere")), ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_again_and_why(tmp_path: Path, change: str) -> None:
    notes, pairs = made(tmp_path, ["a.png", "sub/a.png"])
    ((source, target), *_others) = pairs.items()
    edit, reason = CHANGES[change]
    edit(source, target)
    waiting, why = notes.waiting(pairs)
    assert waiting == ({} if reason is None else {source: target}) and dict(why) == ({reason: 1} if reason else {})


def test_other_engines_and_no_notes(tmp_path: Path) -> None:
    notes, pairs = made(tmp_path, ["a.png", "b.png"])
    assert not notes.waiting(pairs)[0]
    other = Notes(tmp_path / "out", "other engines", keep=False)
    assert other.waiting(pairs) == (pairs, {"engines": 2})
    shutil.rmtree(tmp_path / "out" / OWN)
    waiting, why = Notes(tmp_path / "out", "c", keep=False).waiting(pairs)
    assert resumed(3, len(waiting), why) == [
        "1 of 3 are there already; skipped",
        "2 of 3 are there and done again: 2 without a note of how it was made",
    ]


def test_a_run_that_was_killed_is_known_up_to_its_last_picture(tmp_path: Path) -> None:
    """Notes are not gathered then; a line cut short is none."""
    notes, pairs = made(tmp_path, ["a.png"])
    del notes
    one = Notes(tmp_path / "out", "c", keep=True)
    source, target = next(iter(pairs.items()))
    target.write_text("anew")
    one.reading(lambda _source: PICTURE, source)
    one.note(source, target)
    files = sorted((tmp_path / "out" / OWN).iterdir())
    assert len(files) == 2 and not Notes(tmp_path / "out", "c", keep=True).waiting(pairs)[0]
    files[1].write_bytes(files[1].read_bytes()[:-20])
    assert Notes(tmp_path / "out", "c", keep=True).waiting(pairs)[0] == pairs


def test_a_picture_that_changed_while_it_was_made_is_not_noted(tmp_path: Path) -> None:
    _notes, pairs = made(tmp_path, ["a.png"])
    notes = Notes(tmp_path / "out", "d", keep=True)
    source, target = next(iter(pairs.items()))
    notes.reading(lambda path: path.write_text("another now"), source)  # type: ignore[arg-type, return-value]
    notes.note(source, target)
    assert not notes.files


def test_many_notes_become_one_file_beside_another_process_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passionsr_trt.runtime.apps.notes.MOST_FILES", 3)
    names = [f"{number}.png" for number in range(10)]
    _notes, pairs = made(tmp_path, names)
    other = Notes(tmp_path / "out", "c", keep=True)
    assert len(list((tmp_path / "out" / OWN).iterdir())) <= 4 and not other.waiting(pairs)[0]
    other.files = [f"{OWN}/{ledger.PREFIX}gone.jsonl"]
    other.close()
    assert not Notes(tmp_path / "out", "c", keep=True).waiting(pairs)[0]


def test_a_disk_that_takes_no_notes_is_said_once_and_costs_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / OWN).write_text("in the way")
    made(tmp_path, ["a.png", "b.png"])
    assert capsys.readouterr().err.count("--resume will do again") == 1


def test_outputs_in_the_folder_of_the_pictures_are_no_pictures(tmp_path: Path) -> None:
    notes, _pairs = made(tmp_path, ["a.png", "b.png"])
    (tmp_path / "out" / "b.png").write_text("mine now")
    (tmp_path / "out" / "c.png").write_text("mine")
    found, _left = find_pictures([tmp_path / "out"])
    assert [picture.name for picture in found if not notes.made(picture)] == ["b.png", "c.png"]
    (named,) = find_pictures([tmp_path / "out" / "a.png"])[0]
    assert not notes.made(named), "who names it means it"


def test_resume_by_the_command(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "chelsea.png", tmp_path / "out"
    shutil.copy(photo, source)

    def told(*options: str, engines: Path = small.engines_int8) -> str:
        assert infer(engines, out, source, options=("--resume", *options)) == 0
        return capsys.readouterr().out

    assert infer(small.engines_int8, out, source) == 0
    first = (out / "chelsea.png").read_bytes()
    assert "1 of 1 are there already" in told()
    assert "1 by other engines or options" in told("--align", "adain")
    assert "1 by other engines or options" in told(engines=small.engines_fp32)
    assert "1 by other engines or options" in told() and (out / "chelsea.png").read_bytes() == first
    shutil.copy(photo, out / "chelsea.png")
    assert "1 changed or damaged since" in told() and (out / "chelsea.png").read_bytes() == first
    assert "1 of 1 are there already" in told()


def test_one_picture_s_folder_gets_notes_where_resume_asks_for_them(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(small.engines_int8, tmp_path / "a.png", photo) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert infer(small.engines_int8, tmp_path / "a.png", photo, options=("--resume",)) == 0
    assert "1 without a note" in capsys.readouterr().out
    assert infer(small.engines_int8, tmp_path / "a.png", photo, options=("--resume",)) == 0
    assert "1 of 1 are there already" in capsys.readouterr().out
