"""What the page keeps of whom, and for how long."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.apps.serving.app import is_loopback
from passionsr_trt.runtime.apps.serving.engines import EngineChoice, offers
from passionsr_trt.runtime.apps.serving.sessions import Cancelled, Sessions
from passionsr_trt.runtime.apps.serving.work import Wishes, compare_picture, upscale_pictures
from passionsr_trt.runtime.backends.packaged import REALESR_GENERAL
from passionsr_trt.runtime.core.chain import Chain

from tests.conftest import Built


def upload(root: Path, digest: str, name: str = "picture.png") -> Path:
    path = root / digest / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"pixels")
    return path


def test_files_go_with_the_last_session_that_uploaded_them(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    shared, own = upload(tmp_path, "shared"), upload(tmp_path, "own")
    sessions.uploaded("first", [shared, own])
    sessions.uploaded("second", [shared])
    with sessions.work("first", [own]) as (_ticket, folder):
        (folder / "result.png").write_bytes(b"pixels")
    assert folder.is_dir()
    sessions.end("first")
    assert shared.is_file() and not own.parent.exists() and not folder.exists()
    sessions.end("second")
    sessions.end("nobody")
    assert list(tmp_path.iterdir()) == []


def test_a_session_that_leaves_at_work_stops_it_and_leaves_nothing(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    with pytest.raises(Cancelled), sessions.work("first", []) as (token, folder):
        sessions.end("first")
        folder.mkdir(exist_ok=True)
        (folder / "late.png").write_bytes(b"pixels")
        token.check()
    assert list(tmp_path.iterdir()) == []


def test_cancel_reaches_what_waits_and_what_works_of_one_session_alone(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    assert sessions.cancel("first") == 0
    sessions.wait("first")
    with sessions.work("first", []) as (first, _folder), sessions.work("second", []) as (second, _other):
        sessions.wait("first")
        assert sessions.cancel("first") == 2
        second.check()
        with pytest.raises(Cancelled):
            first.check()
    with sessions.work("first", []) as (again, _folder):
        again.check()


def test_only_uploads_are_anybodys(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.png"
    root.mkdir()
    outside.write_bytes(b"mine")
    sessions = Sessions(root)
    sessions.uploaded("first", [outside, root, root / ".." / "outside.png"])
    sessions.end("first")
    assert outside.is_file() and root.is_dir()


def test_what_nobody_claims_goes_in_time_and_what_somebody_has_stays(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    held, unclaimed, broken = upload(tmp_path, "held"), upload(tmp_path, "unclaimed"), tmp_path / "tmpabc"
    broken.write_bytes(b"half")
    sessions.uploaded("first", [held])
    before = time.time() - 100
    for path in (held.parent, unclaimed.parent, broken):
        os.utime(path, (before, before))
    sessions.tidy(kept=200, broken=50)
    assert held.is_file() and unclaimed.is_file() and not broken.exists()
    sessions.tidy(kept=50, broken=50)
    assert held.is_file() and not unclaimed.exists()
    late = upload(tmp_path, "late")
    sessions.end("first")
    sessions.tidy(kept=50, broken=50)
    assert [path.name for path in tmp_path.iterdir()] == ["late"]
    os.utime(late.parent, (before, before))
    sessions.tidy(kept=200, broken=50)
    assert list(tmp_path.iterdir()) == [], "nobody is there, who could still use it"


def test_a_session_without_a_sign_of_life_ends(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    sessions.uploaded("first", [upload(tmp_path, "first")])
    sessions.tidy(kept=60)
    assert len(list(tmp_path.iterdir())) == 1
    sessions.tidy(kept=-1)
    assert list(tmp_path.iterdir()) == []


def test_one_chain_is_open_at_a_time(small: Built) -> None:
    closed: list[str] = []
    choice = EngineChoice(offers([small.engines_int8, small.onnx_fp32], "cpu", 1, 0))
    int8, onnx = choice.offers
    assert (int8, onnx) == ("INT8", "FP32") and choice.scales == (2, 1, 3, 4)
    first = choice.chain(int8)
    close = first.close

    def closing(self: Chain = first) -> None:
        closed.append(self.label)
        close()

    first.close = closing  # type: ignore[method-assign]
    assert choice.chain(int8) is first and closed == []
    choice.chain(onnx)
    assert closed == ["OpenVINO INT8"] and choice.open_label == onnx
    with pytest.raises(UserError, match="no engines are called other; expected INT8"):
        choice.chain("other")
    choice.close()
    with pytest.raises(UserError, match="named twice"):
        offers([small.engines_int8] * 3, "cpu", 1, 0)


def test_engines_of_one_label_are_told_apart(small: Built) -> None:
    found = offers([small.engines_int8, small.onnx_int8, small.onnx_fp32], "cpu", 1, 0)
    assert list(found) == ["INT8 (OpenVINO)", "INT8 (ONNX Runtime, cpu)", "FP32"]
    assert len(offers([small.onnx_fp32, small.onnx_fp32 / "." / ".." / small.onnx_fp32.name], "cpu", 1, 0)) == 2


def test_engines_are_called_by_their_model_and_those_of_one_title_are_told_apart(small: Built) -> None:
    packaged = REALESR_GENERAL.folder
    first, second = packaged / "int8", packaged / "int8-63"
    assert list(offers([first, small.onnx_fp32], "cpu", 1, 0)) == ["Real-ESRGAN general ×4, INT8", "FP32"]
    runs = "Real-ESRGAN general ×4, INT8 (ONNX Runtime, cpu)"
    assert list(offers([first, second], "cpu", 1, 0)) == [f"{runs} ({first})", f"{runs} ({second})"]


def test_the_first_result_is_there_before_the_second_picture_is_begun(
    small: Built, tmp_path: Path, photo: Path
) -> None:
    choice = EngineChoice(offers([small.engines_int8], "cpu", 1, 0))
    later = tmp_path / "later.png"
    with Sessions(tmp_path).work("first", []) as (token, folder):
        work = upscale_pictures(choice, [photo, later], Wishes("INT8"), folder, token, lambda *_: None, 10**6)
        first = next(work)
        assert (
            first.file is not None and set(first.looks) == {"bicubic", "result"} and set(first.figures) == {"INT8"}
        )
        later.write_bytes(photo.read_bytes())
        assert [shown.line for shown in work] == ["later.png: 224×150 pixels"]
    choice.close()


def test_engines_of_another_scale_are_not_compared(small: Built, tmp_path: Path, photo: Path) -> None:
    choice = EngineChoice(offers([small.engines_int8, small.engines_fp32], "cpu", 1, 0))
    with Sessions(tmp_path).work("first", []) as (token, folder):
        (shown,) = upscale_pictures(choice, [photo], Wishes("INT8"), folder, token, lambda *_: None, 10**6)
        with pytest.raises(UserError, match=r"FP32: 224×150 pixels; expected 448×300"):
            compare_picture(choice, replace(shown, size=(300, 448)), "FP32", folder, token, lambda *_: None)
        compared = compare_picture(choice, shown, "FP32", folder, token, lambda *_: None)
    assert set(compared.figures) == {"INT8", "FP32"} and compared.looks["result"] == shown.looks["result"]
    choice.close()


def test_whoever_waits_for_a_turn_can_give_up(small: Built, tmp_path: Path, photo: Path) -> None:
    sessions = Sessions(tmp_path)
    choice = EngineChoice(offers([small.engines_int8], "cpu", 1, 0))
    reported: list[str] = []
    with choice.turn(lambda: None), sessions.work("second", []) as (token, folder):
        threading.Timer(0.3, sessions.cancel, ["second"]).start()
        work = upscale_pictures(
            choice, [photo], Wishes("INT8"), folder, token, lambda *_: reported.append(""), 10**6
        )
        with pytest.raises(Cancelled):
            next(work)
    assert reported == []


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.0.2", False),
        ("x", False),
    ],
)
def test_hosts_that_others_reach_are_told_apart(host: str, own: bool) -> None:
    assert is_loopback(host) is own
