"""The progress line of an export: its stages, in order, and nothing of the exporter's own on stdout."""

from __future__ import annotations

from pathlib import Path

import pytest
from passionsr_trt.export.onnx import stages
from passionsr_trt.runtime.main import main

from tests.export.networks import write_small


def test_an_export_tells_every_stage_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entered: list[str] = []
    enter = stages.Stages.enter

    def noted(self: stages.Stages, stage: str) -> None:
        enter(self, stage)
        entered.extend([stage] if stage not in entered else [])

    monkeypatch.setattr(stages.Stages, "enter", noted)
    network = write_small("Compact", tmp_path / "network.safetensors")
    assert main(["export", str(network), "--float", "-o", str(tmp_path / "onnx")]) == 0
    assert entered == list(stages.STAGES)
    shown = capsys.readouterr()
    assert "torch.onnx" not in shown.out + shown.err
    assert "stage" not in shown.err, "no terminal, and it ended soon"


def test_the_line_moves_while_a_stage_lasts_and_stays_short_of_the_end_where_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    monkeypatch.setattr(stages.sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(ValueError), stages.Stages(2) as line:
        monkeypatch.setattr(line.line, "refresh", lambda *_: drawn.append(line.line.n))
        line.begin("first")
        line.enter("tracing")
        monkeypatch.undo()
        raise ValueError
    assert line.line.n == 1 and not line.ticks.is_alive()
