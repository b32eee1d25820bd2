"""When engines are built, reused or refused, and by whom."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from passionsr_trt.engines.build import engine_key, why_build
from passionsr_trt.engines.bundle.backends import OPENVINO, TENSORRT_RTX
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.common.user_cache import one_at_a_time
from passionsr_trt.runtime.main import main

from tests.conftest import COMMITTED, Built

pytestmark = pytest.mark.kernels


def test_equal_keys_are_reused_and_a_changed_one_says_why(small: Built, tmp_path: Path) -> None:
    bundle, target = OnnxBundle.load(small.onnx_int8), EngineBundle.load(small.engines_int8).target
    key = engine_key(bundle, OPENVINO, target)
    assert why_build(small.engines_int8, key) is None
    assert why_build(tmp_path, key) == "nothing there yet"
    assert "device was CPU, now NPU" in str(
        why_build(small.engines_int8, engine_key(bundle, OPENVINO, replace(target, device="NPU")))
    )
    other = OnnxBundle.load(small.onnx_fp32)
    assert why_build(small.engines_int8, engine_key(other, OPENVINO, target)) == "the ONNX bundle changed"
    assert "backend was openvino" in str(why_build(small.engines_int8, engine_key(bundle, TENSORRT_RTX, target)))


def test_another_version_or_damage_is_rebuilt(small: Built, tmp_path: Path) -> None:
    target = EngineBundle.load(small.engines_int8).target
    key = engine_key(OnnxBundle.load(small.onnx_int8), OPENVINO, target)
    copy = tmp_path / "engines"
    shutil.copytree(small.engines_int8, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["key"]["openvino version"] = "2020.1"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "openvino version was 2020.1" in str(why_build(copy, key))
    (copy / "unet.onnx").write_bytes(b"")
    assert why_build(copy, key) == "what is there is damaged"


def test_a_dry_run_prints_the_key_and_builds_nothing(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "engines"
    assert main(["build-engines", str(small.onnx_int8), "-o", str(output), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "nothing there yet" in printed and "openvino version: 20" in printed and "vae_encoder" in printed
    assert not output.exists()


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_dry_run_for_a_gpu_that_is_not_here(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("passionsr_trt.engines.tensorrt.backend.has_driver", lambda: False)
    output, bundle = tmp_path / "engines", str(COMMITTED / "onnx_int8")
    words = ["build-engines", bundle, "-o", str(output), "--backend", backend]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"to build for {backend}, on another machine than this one: " in printed
    assert all(part in printed for part in ("vae_encoder", "unet", "INT8 sites")), printed
    assert main(words) == 1, "not as a dry run"
    assert main([*words, "--dry-run", "--size", "500x500"]) == 2, "what is wrong anywhere stays wrong"
    assert not output.exists()


def test_a_bundle_of_another_digest_is_refused(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "build-engines",
        str(small.onnx_int8),
        "-o",
        str(tmp_path / "engines"),
        "--dry-run",
        "--expect-digest",
    ]
    assert main([*words, "0" * 64]) == 1
    assert "get the bundle from its source again" in capsys.readouterr().err
    assert main([*words, sha256(small.onnx_int8 / "manifest.json")]) == 0


def _hold(output: Path, ready: Path, seconds: float) -> None:
    with one_at_a_time(output, "building"):
        ready.touch()
        time.sleep(seconds)
        (output.parent / "released").touch()


def test_a_second_builder_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, ready = tmp_path / "engines", tmp_path / "ready"
    first = multiprocessing.get_context("spawn").Process(target=_hold, args=(output, ready, 1.0))
    first.start()
    while not ready.exists():
        time.sleep(0.02)
    with one_at_a_time(output, "building"):
        assert (tmp_path / "released").exists(), "the lock came after the first builder was done"
    first.join()
    assert "another process is building it; waiting" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.lock"))
