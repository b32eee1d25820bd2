"""The images' entry point, and that what they copy is there. docker/check.sh builds the images themselves."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the entry point is a POSIX shell script")
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"


@pytest.fixture
def run(tmp_path: Path) -> object:
    """Run the entry point with a `passionsr-trt` that prints its arguments."""
    program = tmp_path / "passionsr-trt"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)

    def call(*words: str, backend: str = "tensorrt") -> list[str]:
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PASSIONSR_BACKEND": backend}
        result = subprocess.run(
            [str(ENTRYPOINT), *words], env=variables, capture_output=True, text=True, check=True
        )
        return result.stdout.splitlines()

    return call


def test_a_bundle_alone_is_built_beside_itself(run: object) -> None:
    assert callable(run)
    engines = ["build-engines", "/work/my bundle/", "--backend", "tensorrt", "-o", "/work/my bundle-engines"]
    assert run("/work/my bundle/") == engines
    assert run("/b", "-o", "/e", "--backend=openvino") == ["build-engines", "/b", "-o", "/e", "--backend=openvino"]
    assert run("/b", "--output=/e") == ["build-engines", "/b", "--output=/e", "--backend", "tensorrt"]


def test_a_word_that_is_no_folder_is_a_command(
    run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(run)
    assert run("infr", "a.png") == ["infr", "a.png"], "which the command line answers"
    assert run("--traceback", "infer", "a.png") == ["--traceback", "infer", "a.png"]
    monkeypatch.chdir(tmp_path)
    for name in ("int8", "infer"):
        (tmp_path / name).mkdir()
    assert run("int8")[:2] == ["build-engines", "int8"]
    assert run("infer", "a.png") == ["infer", "a.png"], "a command, even where a folder has its name"
    assert run("./infer")[:2] == ["build-engines", "./infer"]


def test_the_list_of_commands_is_the_command_line_s() -> None:
    from passionsr_trt.runtime.main import COMMANDS

    (line,) = re.findall(r"^    (import-model .*)\)$", ENTRYPOINT.read_text(), re.MULTILINE)
    assert line.split(" | ") == list(COMMANDS)


def test_subcommands_pass_through(run: object) -> None:
    assert callable(run)
    assert run("infer", "a.png", "-o", "out") == ["infer", "a.png", "-o", "out"]
    assert run() == ["build-engines", "--help"]
    from passionsr_trt.runtime.main import COMMANDS

    for command in COMMANDS:
        assert run(command, "x") == [command, "x"]


@pytest.mark.parametrize("path", sorted((ROOT / "docker").glob("Dockerfile*")), ids=lambda path: path.name)
def test_what_an_image_copies_is_there_and_not_ignored(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert {"export", "engines", "runtime", "setup.cfg"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored), source


@pytest.mark.parametrize("path", sorted((ROOT / "docker").glob("Dockerfile*")), ids=lambda path: path.name)
def test_no_image_brings_encoders_under_the_gpl(path: Path) -> None:
    """PyAV's wheels carry x264 and x265."""
    extras = set().union(*(found.split(",") for found in re.findall(r"\.\[([\w,]+)\]", path.read_text())))
    assert extras and "video" not in extras
