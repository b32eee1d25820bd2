"""Kept models are checked, bounded, and named by all that decides what they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from passionsr_trt.engines.openvino import cache as compiled_cache
from passionsr_trt.engines.openvino.cache import DIGEST, FOLDER, CompiledCache, model_key


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path))
    return tmp_path / FOLDER


def test_what_was_kept_is_found(folder: Path) -> None:
    cache = CompiledCache(1000)
    assert cache.load("a") is None
    cache.keep("a", b"model")
    found = cache.load("a")
    assert found is not None and found.tobytes() == b"model"


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 40])
def test_a_damaged_file_is_not_taken_and_goes(folder: Path, damage: bytes) -> None:
    cache = CompiledCache(1000)
    cache.keep("a", b"model")
    path = next(folder.iterdir())
    path.write_bytes(damage)
    assert cache.load("a") is None and not path.exists()


def test_the_least_recently_used_go_first(folder: Path) -> None:
    cache = CompiledCache(3 * (100 + DIGEST))
    for age, name in enumerate("abc"):
        cache.keep(name, bytes(100))
        os.utime(folder / f"{name}.compiled", (age, age))
    assert cache.load("a") is not None  # used now
    cache.keep("d", bytes(100))
    assert sorted(path.stem for path in folder.iterdir()) == ["a", "c", "d"]


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out(folder: Path) -> None:
    cache = CompiledCache(200)
    cache.keep("a", bytes(100))
    cache.keep("b", bytes(300))
    assert [path.stem for path in folder.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path / "file"))
    CompiledCache(1000).keep("a", b"model")
    assert CompiledCache(1000).load("a") is None
    assert "warning" in capsys.readouterr().err


def test_keys_differ_by_file_shape_options_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(digest: str = "d", shape: tuple[int, ...] = (1, 3, 64, 64), threads: int = 0) -> str:
        return model_key(digest, {"image": shape}, threads=threads)

    keys = {key(), key("e"), key(shape=(1, 3, 64, 128)), key(threads=1)}
    assert key() in keys and len(keys) == 4
    monkeypatch.setattr(compiled_cache, "here", lambda: {"cpu": "another"})
    assert key() not in keys
