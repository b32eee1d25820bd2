"""A bundle whose files are whole and yet not what it says: refused before anything is built or run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.runtime.main import main

from tests.conftest import COMMITTED, Built

PART = "vae_encoder.onnx"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "onnx"
    shutil.copytree(COMMITTED / "onnx_int8", folder)
    return folder


def state(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """The manifest once more, with the digests of what lies in the folder now, and a change."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        entry |= {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """build-engines and infer both end with one line, the same way; nothing is left."""
    lines = []
    out = folder.with_name("out")
    for words in (
        ["build-engines", str(folder), "-o", str(out)],
        ["infer", "x.png", "-o", str(out), "--engines", str(folder), "--provider", "cpu"],
    ):
        assert main(words) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        lines.append(errors[0])
        assert not out.exists() and [path.name for path in folder.parent.iterdir()] == ["onnx"]
    assert lines[0] == lines[1]
    return lines[0]


def test_a_float_graph_in_a_bundle_that_says_int8(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(COMMITTED / "onnx_fp32" / PART, bundle / PART)
    state(bundle)
    assert "is float; expected vae_encoder as its manifest says" in refused(bundle, capsys)


def test_an_int8_graph_in_a_bundle_that_says_float(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "onnx"
    shutil.copytree(COMMITTED / "onnx_fp32", folder)
    shutil.copy(COMMITTED / "onnx_int8" / PART, folder / PART)
    state(folder)
    assert "is quantized; expected vae_encoder as its manifest says" in refused(folder, capsys)


def test_a_graph_that_does_not_parse(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / PART).write_bytes(b"\x08\x07 no graph")
    state(bundle)
    assert "not an ONNX graph" in refused(bundle, capsys)


def test_another_part_s_graph(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(bundle / "vae_decoder.onnx", bundle / PART)
    state(bundle)
    assert "takes clean_latent and gives image_out" in refused(bundle, capsys)


def test_weights_that_the_manifest_does_not_list(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(str(bundle / PART))
    onnx.save(model, str(bundle / PART), save_as_external_data=True, location="elsewhere.bin", size_threshold=0)
    state(bundle)
    assert "takes weights from 'elsewhere.bin', which is not listed" in refused(bundle, capsys)


def test_what_lies_beside_a_graph_is_not_copied(small: Built, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(small.onnx_fp32, bundle)
    (bundle / f"{PART}.passwd").symlink_to("/etc/passwd")
    assert main(["build-engines", str(bundle), "-o", str(tmp_path / "engines")]) == 0
    assert sorted(path.name for path in (tmp_path / "engines").iterdir()) == [
        "manifest.json",
        "unet.onnx",
        "vae_decoder.onnx",
        "vae_encoder.onnx",
    ]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda m: m["model"].update(upscale=0), "upscale is 0; expected 1 to 16"),
        (lambda m: m["model"].update(upscale=True), "upscale is True; expected int"),
        (lambda m: m["model"].update(align="twice"), "align is 'twice'"),
        (lambda m: m["model"].update(size=[100, 64]), "expected multiples of 64"),
        (lambda m: m["parts"][0].update(file="../vae_encoder.onnx"), "a part is called '../vae_encoder.onnx'"),
        (lambda m: m["parts"][0].update(name="a/b"), "a part is called 'a/b'"),
        (lambda m: m["parts"][0]["output"].update(channels=0), "expected channels from 1 on"),
        (lambda m: m["parts"][0].update(multiple=-64), "multiple"),
        (lambda m: m.update(files=None), "'files' is no list of files"),
        (lambda m: m.update(files={"unet.onnx": {"size": "1", "sha256": ""}}), "'files' is no list of files"),
        (lambda m: m.update(schema_version=True), "no schema_version"),
        (lambda m: m.update(schema_version=-1), "no schema_version"),
        (lambda m: m.update(parts=None), "parts is None"),
    ],
)
def test_values_that_no_bundle_has(
    bundle: Path, change: Callable[[dict[str, Any]], object], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state(bundle, change)
    assert wrong in refused(bundle, capsys)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"schema_version": 1, "schema_version": 1}', "'schema_version' is there twice"),
        ("[" * 100_000, "nested too deep"),
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("\ud800", "not valid JSON"),
    ],
)
def test_manifests_that_are_none(bundle: Path, text: str, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert wrong in refused(bundle, capsys)


def test_a_manifest_that_is_a_pipe_hangs_nobody(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    assert "is no file" in refused(bundle, capsys)


def test_a_whole_bundle_is_taken(bundle: Path) -> None:
    state(bundle)
    assert len(OnnxBundle.load(bundle).parts) == 3
