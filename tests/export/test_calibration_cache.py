"""Calibration folders that are damaged or another's: one line each, and none of them breaks the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.quantize.calibration import TENSORS, Calibration, find_calibration
from passionsr_trt.export.quantize.values import PartQuant, SiteQuant


def kept(folder: Path, model: str = "own", seed: int = 0) -> Path:
    Calibration(
        model, QuantSpec(seed=seed), "data", PartQuant(sites={"part.site": SiteQuant(torch.ones(2))})
    ).save(folder)
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def truncated(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-1])


def no_tensors(folder: Path) -> None:
    """A file that is no safetensors file, and listed as it is."""
    from passionsr_trt.engines.bundle.manifest import write_manifest

    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / TENSORS).write_bytes(b"nothing of the kind")
    write_manifest(folder, {key: manifest[key] for key in ("kind", "model_digest", "data_digest", "spec")})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (lambda f: (f / "manifest.json").write_text("{"), "not valid JSON"),
    "no kind": (lambda f: edit(f, lambda m: m.pop("kind")), "is of kind None; expected a calibration"),
    "no model": (lambda f: edit(f, lambda m: m.pop("model_digest")), "'model_digest' is missing"),
    "odd model": (lambda f: edit(f, lambda m: m.update(model_digest=[1])), r"model_digest is \[1\]; expected str"),
    "no data": (lambda f: edit(f, lambda m: m.pop("data_digest")), "'data_digest' is missing"),
    "no spec": (lambda f: edit(f, lambda m: m.pop("spec")), "'spec' is missing"),
    "odd spec": (lambda f: edit(f, lambda m: m.update(spec=[1])), "not a JSON object"),
    "another's spec": (lambda f: edit(f, lambda m: m.update(spec={"bits": 8})), "unknown key 'bits'"),
    "newer": (lambda f: edit(f, lambda m: m.update(schema_version=99)), "made by a newer version"),
    "truncated": (truncated, "expected .*: the file is truncated or was replaced"),
    "no tensors": (no_tensors, "not a whole safetensors file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_one_line_and_does_not_break_the_cache(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGE[name]
    cache = tmp_path / "cache"
    bad = kept(cache / "bad", seed=1)
    damage(bad)
    with pytest.raises(UserError, match=message) as raised:
        Calibration.load(bad)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no calibration of this model; run `passionsr-trt calibrate` first"):
        find_calibration(cache, "own")
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"passed over: {bad}") and raised.value.fact in told
    kept(cache / "good")
    assert find_calibration(cache, "own").spec == QuantSpec()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["odd spec", "newer", "truncated"])
def test_what_cannot_have_been_the_one_is_not_told_nor_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(tmp_path / "good")
    DAMAGE[name][0](kept(tmp_path / "other", model="another"))
    kept(tmp_path / "bundle")
    edit(tmp_path / "bundle", lambda manifest: manifest.update(kind="onnx-bundle"))
    assert find_calibration(tmp_path, "own").model_digest == "own"
    assert capsys.readouterr().err == ""


def test_of_several_the_caller_must_choose(tmp_path: Path) -> None:
    kept(tmp_path / "first"), kept(tmp_path / "second", seed=1)
    with pytest.raises(UserError, match=r"2 calibrations of this model; choose: --calibration .*first, .*second"):
        find_calibration(tmp_path, "own")
