"""Command lines that say two things, or write to where nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime import infer
from passionsr_trt.runtime.main import main

LINES = {
    "infer a.png -o out --engines one --engines two": "argument --engines: given twice; expected once",
    "infer a.png -o out --output other --engines one": "argument -o/--output: given twice; expected once",
    "infer a.png -o out --engines one --seed 1 --seed=1": "argument --seed: given twice; expected once",
    "batch in out --engines one --engine two": "argument --engines: given twice; expected once",
    "serve --engines one --engines two": "argument --engines: given twice; expected once, all values after it",
    "build-engines one -o a -o b": "argument -o/--output: given twice",
    "infer a.png -o - --engines one": "argument -o/--output: expected a path: nothing is",
    "build-engines one -o -": "nothing is written to standard output",
    "build-engines one -o out --timing-cache -": "nothing is written to standard output",
    "compare a.png --reference one --engines two -o -": "nothing is written to standard output",
    "compare a.png --reference one --engines two -o out --html -": "nothing is written to standard output",
    "benchmark --engines one --baseline two -o -": "nothing is written to standard output",
    "batch in - --engines one": "nothing is written to standard output",
    "repository one -o -": "nothing is written to standard output",
    "infer . $NOTHING -o out --engines one": "argument images: expected a path, got nothing",
    "batch $NOTHING out --engines one": "expected a path, got nothing",
    "compare $NOTHING --reference one --engines two -o out": "argument images: expected a path, got nothing",
    "doctor --gpu-report -": "nothing is written to standard output",
}


@pytest.mark.parametrize("line", LINES)
def test_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([word.replace("$NOTHING", "") for word in line.split()])
    assert stop.value.code == 2 and LINES[line] in capsys.readouterr().err


def test_infer_by_itself_refuses_twice_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["infer.py", "a.png", "-o", "out", "--engines", "one", "--engines", "two"])
    with pytest.raises(SystemExit):
        infer.main()
    assert "--engines: given twice" in capsys.readouterr().err


def test_a_file_in_place_of_engines_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        EngineBundle.load(tmp_path / "model.onnx")
    assert str(caught.value) == (
        f"{tmp_path}/model.onnx: is one graph for other tools (docs/other-tools.md); expected the folder that "
        "holds an engine bundle; make one with `passionsr-trt build-engines`"
    )
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(
        UserError, match="is a file; expected the folder that holds an engine bundle; give its folder"
    ):
        EngineBundle.load(tmp_path / "manifest.json")
