"""What a path holds is said where something else was expected, with the commands that lead there."""

from __future__ import annotations

from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.kinds import kind_of
from passionsr_trt.engines.bundle.manifest import read_manifest, write_manifest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.main import main

from tests.conftest import COMMITTED, DEMO, Built

MODEL, NETWORK = DEMO / "model", DEMO / "realesrgan" / "network.safetensors"


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_infer_says_what_its_engines_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, bundle = str(DEMO / "photos" / "lr" / "chelsea.png"), COMMITTED / "onnx_int8"
    for given, what, way in (
        (MODEL, "holds a model folder", f"`passionsr-trt calibrate {MODEL} --images …`"),
        (
            NETWORK,
            "is a checkpoint",
            f"then `passionsr-trt export {NETWORK} -o …`, then `passionsr-trt build-engines`",
        ),
        (bundle, "holds an ONNX bundle", f"`passionsr-trt build-engines {bundle} -o …`"),
        (bundle / "unet.onnx", "is one graph for other tools", "give its folder"),
        (tmp_path, "no manifest.json", "make one with `passionsr-trt build-engines`"),
    ):
        line = refused(["infer", photo, "-o", str(tmp_path / "out"), "--engines", str(given)], capsys)
        assert line.startswith(f"error: {given}: {what}") and way in line, line
    assert not (tmp_path / "out").exists()


def test_build_engines_says_what_it_was_given(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spaced = tmp_path / "a network.pth"
    spaced.write_bytes(b"")
    pipeline, calibration = tmp_path / "pipeline", tmp_path / "calibration"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text("{}")
    calibration.mkdir()
    write_manifest(calibration, {"kind": "calibration"})
    for given, what, way in (
        (spaced, "is a checkpoint", f'`passionsr-trt calibrate "{spaced}" --images …`'),
        (pipeline, "holds a diffusers folder", f"begin with `passionsr-trt import-model {pipeline} -o …`"),
        (calibration, "holds a calibration", f"--calibration {calibration} "),
        (small.engines_int8, "holds engines", "give the ONNX bundle that they were built from"),
    ):
        line = refused(["build-engines", str(given), "-o", str(tmp_path / "out")], capsys)
        assert line.startswith(f"error: {given}: {what}") and way in line, line


def test_what_tells_nothing_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[")
    (tmp_path / "a.txt").write_text("x")
    assert [kind_of(tmp_path / name) for name in ("", "a.txt", "missing")] == [None, None, None]
    (tmp_path / "manifest.json").write_text('{"kind": "other", "schema_version": 1}')
    with pytest.raises(UserError, match="is of kind 'other'"):
        read_manifest(tmp_path, "engine-bundle")
