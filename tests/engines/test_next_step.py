"""Every command ends by naming the next one."""

from __future__ import annotations

import shlex

import pytest
from passionsr_trt.engines.common.next_step import STEP, say_next


def test_what_comes_next_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "it's a model", "-o", "out/$HOME"]
    say_next(*words)
    (line,) = capsys.readouterr().out.splitlines()
    said, command = line.split(" ", 1)
    assert said == "next:" and shlex.split(command) == ["passionsr-trt", *words]


def test_a_step_of_another_command_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STEP, "1")
    say_next("infer")
    assert not capsys.readouterr().out
