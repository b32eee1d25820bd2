"""The user's cache folder: where it is on each system, and that nothing fails where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from passionsr_trt.engines.common import user_cache
from passionsr_trt.engines.common.user_cache import cache_folder, read_cached, write_cached

VARIABLES = ("PASSIONSR_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, no variable set, no warning given yet."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    user_cache._warn.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {}, "{home}/.cache/passionsr-trt/kernels"),
        ("linux", {"XDG_CACHE_HOME": "{home}/xdg"}, "{home}/xdg/passionsr-trt/kernels"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "{home}/.cache/passionsr-trt/kernels"),
        ("darwin", {"XDG_CACHE_HOME": "{home}/xdg"}, "{home}/Library/Caches/passionsr-trt/kernels"),
        ("win32", {"LOCALAPPDATA": "{home}/local"}, "{home}/local/passionsr-trt/kernels"),
        ("win32", {}, "{home}/AppData/Local/passionsr-trt/kernels"),
        ("linux", {"PASSIONSR_CACHE": "{home}/mine", "XDG_CACHE_HOME": "{home}/xdg"}, "{home}/mine/kernels"),
        ("win32", {"PASSIONSR_CACHE": "{home}/mine", "LOCALAPPDATA": "{home}/local"}, "{home}/mine/kernels"),
    ],
)
def test_every_system_has_its_folder_and_a_variable_comes_first(
    home: Path, monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home=home))
    found = cache_folder("kernels")
    assert found.as_posix() == expected.format(home=home.as_posix())
    assert not found.exists(), "asking makes nothing"


def test_what_is_kept_is_read_again(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert read_cached("kernels", "a.bin") is None
    assert write_cached("kernels", "a.bin", b"compiled")
    assert read_cached("kernels", "a.bin") == b"compiled"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["a file in the way", "no home"])
def test_a_cache_that_cannot_be_kept_is_one_warning(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "no home":

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
        monkeypatch.setattr(sys, "platform", "linux")
    else:
        (home / "taken").write_text("")
        monkeypatch.setenv("PASSIONSR_CACHE", str(home / "taken"))
    for name in ("a.bin", "b.bin", "c.bin"):
        assert read_cached("kernels", name) is None
        assert not write_cached("kernels", name, b"compiled")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: ") and "$PASSIONSR_CACHE" in lines[0]


def test_a_filled_cache_may_be_read_only(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert write_cached("kernels", "a.bin", b"compiled")

    def refuse(_path: Path, _content: bytes) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(user_cache, "write_atomic", refuse)
    assert write_cached("kernels", "a.bin", b"compiled")
    assert capfd.readouterr().err == ""
