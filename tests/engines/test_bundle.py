"""Bundles: strict manifests, checked files, atomic folders."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.manifest import (
    atomic_folder,
    check_target,
    checked_file,
    read_manifest,
    write_manifest,
)
from passionsr_trt.engines.bundle.wiring import PartInfo, TensorInfo, check_wiring
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.main import main

from tests.conftest import Built


@pytest.fixture
def copy(small: Built, tmp_path: Path) -> Path:
    shutil.copytree(small.engines_int8, tmp_path / "engines")
    return tmp_path / "engines"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_loading_gives_back_what_was_saved(small: Built) -> None:
    bundle = EngineBundle.load(small.engines_int8)
    assert bundle.label == "INT8" and EngineBundle.load(small.engines_fp32).label == "FP32"
    assert bundle.model == OnnxBundle.load(small.onnx_int8).model
    assert all(bundle.open(part).is_file() for part in bundle.parts)


def test_a_model_s_name_is_in_the_title_and_may_be_missing(copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, title in (("A network", "A network, INT8"), ("", "INT8"), (None, "INT8")):
        manifest["model"].pop("name", None)
        manifest["model"] |= {} if name is None else {"name": name}
        path.write_text(json.dumps(manifest))
        bundle = EngineBundle.load(copy)
        assert bundle.title == title and bundle.label == "INT8"
    for name in ("two\nlines", "x" * 81):
        manifest["model"]["name"] = name
        path.write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=r"name is .*; expected at most 80 printable characters"):
            EngineBundle.load(copy)


def test_a_newer_schema_is_named_before_its_unknown_keys(copy: Path) -> None:
    edit(copy, schema_version=99, invented=True)
    with pytest.raises(UserError, match=r"a newer version \(schema 99\); this one reads 1; update passionsr-trt$"):
        EngineBundle.load(copy)


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("engine-bundle", "export again, then build-engines again"),
        ("onnx-bundle", "export again"),
        ("calibration", "calibrate again"),
    ],
)
def test_an_older_schema_is_named_with_the_way_out(
    kind: str, way_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, {"kind": kind, "invented": True})
    assert read_manifest(tmp_path, kind)["schema_version"] == 1
    monkeypatch.setattr("passionsr_trt.engines.bundle.manifest.SCHEMA_VERSION", 2)
    with pytest.raises(UserError, match=rf"an older version \(schema 1\); this one reads 2; {way_out}$"):
        read_manifest(tmp_path, kind)
    check_target(tmp_path, kind)  # the way out may lead to the same folder
    with pytest.raises(UserError, match="holds other files"):
        check_target(tmp_path, "model")


def test_values_of_another_type_are_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    for change, wrong in (
        ({"target": {**manifest["target"], "bfloat16": "yes"}}, "target: bfloat16 is 'yes'; expected bool"),
        ({"parts": "all"}, "parts is 'all'"),
        ({"coverage": {"unet": {"invented": 1}}}, "coverage.unet: unknown key 'invented'"),
        ({"spec": {"bits_weights": 5}}, "bits_weights is 5"),
        ({"model": {**manifest["model"], "size": [64]}}, "model: size is "),
        ({"backend": "another"}, "backend is 'another'; expected one of openvino"),
    ):
        edit(copy, **{**manifest, **change})
        with pytest.raises(UserError, match=re.escape(wrong)):
            EngineBundle.load(copy)


def test_a_chain_that_is_none_is_refused() -> None:
    image, latent = TensorInfo("image", 3, 1), TensorInfo("latent", 4, 8)
    first = PartInfo("first", "", (image,), latent, 8)
    last = PartInfo("last", "", (latent,), TensorInfo("out", 3, 1), 8)
    check_wiring([first, last], "here")
    drawn = [TensorInfo(name, 4, 8) for name in ("noise", "noise_2")]
    check_wiring([first, replace(last, inputs=(latent, *drawn))], "here")
    for parts, wrong in (
        ([], "no parts"),
        ([last, first], "'latent', which no part before it gives"),
        ([first, replace(last, inputs=(replace(latent, channels=8),))], "takes latent [B, 8, H/8, W/8]"),
        ([first], "the chain ends with latent"),
        ([replace(first, multiple=4), last], "first has multiple 4"),
        ([first, last, replace(last, name="again")], "gives 'out' again"),
        ([replace(first, output=replace(latent, name="noise_2")), last], "gives 'noise_2' as if it were a source"),
    ):
        with pytest.raises(UserError, match=re.escape(wrong)):
            check_wiring(parts, "here")


def test_unknown_and_missing_keys_are_named(copy: Path) -> None:
    edit(copy, invented=True)
    with pytest.raises(UserError, match="unknown key 'invented'"):
        EngineBundle.load(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["invented"], manifest["backend"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="backend"):
        EngineBundle.load(copy)


def test_an_onnx_bundle_is_not_an_engine_bundle(small: Built) -> None:
    with pytest.raises(
        UserError, match="holds an ONNX bundle; expected an engine bundle; `passionsr-trt build-engines"
    ):
        EngineBundle.load(small.onnx_int8)


def test_a_truncated_file_and_a_changed_byte_are_refused(copy: Path) -> None:
    bundle = EngineBundle.load(copy)
    path = copy / bundle.part("unet").file
    original = path.read_bytes()
    path.write_bytes(original[:-10])
    with pytest.raises(UserError, match="truncated"):
        bundle.open(bundle.part("unet"))
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(UserError, match="SHA-256 differs"):
        bundle.open(bundle.part("unet"))


def test_parts_of_two_bundles_cannot_be_mixed(small: Built, copy: Path) -> None:
    bundle = EngineBundle.load(copy)
    file = bundle.part("unet").file
    shutil.copy(small.engines_fp32 / file, copy / file)
    with pytest.raises(UserError, match="was replaced"):
        bundle.open(bundle.part("unet"))


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_paths_never_leave_the_folder(copy: Path, name: str) -> None:
    manifest = read_manifest(copy, "engine-bundle")
    manifest["files"][name] = {"size": 0, "sha256": ""}
    with pytest.raises(UserError, match="leaves the folder"):
        checked_file(copy, manifest, name)


def write(target: Path, text: str) -> None:
    with atomic_folder(target, "calibration") as folder:
        (folder / "file").write_text(text)
        write_manifest(folder, {"kind": "calibration"})


def test_a_failed_stage_leaves_the_old_folder_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, "old")
    with pytest.raises(RuntimeError), atomic_folder(target, "calibration") as folder:
        (folder / "file").write_text("new")
        raise RuntimeError
    assert (target / "file").read_text() == "old"
    write(target, "new")
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_nobodys_files_are_replaced(tmp_path: Path, small: Built, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    shutil.copytree(small.onnx_int8, tmp_path / "onnx")
    for output in (photos, tmp_path / "file", tmp_path / "onnx"):
        assert main(["build-engines", str(tmp_path / "onnx"), "-o", str(output)]) == 1
        assert "expected a" in capsys.readouterr().err
    assert (photos / "holiday.jpg").read_text() == (tmp_path / "file").read_text() == "mine"
    OnnxBundle.load(tmp_path / "onnx")


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "bundle", "x")
