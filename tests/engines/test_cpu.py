"""CPUs whose INT8 saturates: found by the probe, refused with a way out, served by ±63 codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from passionsr_trt.engines import openvino_builder
from passionsr_trt.engines.bundle import OnnxBundle
from passionsr_trt.engines.cpu import openvino_int8_exact
from passionsr_trt.engines.errors import UserError
from passionsr_trt.engines.openvino_model import failure
from passionsr_trt.runtime.main import main

from tests.conftest import DEMO, Built

OLD_CPU = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}


def on_an_old_cpu(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], env=OLD_CPU, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86 only")
def test_the_probe_sees_saturation() -> None:
    code = "from passionsr_trt.engines.cpu import openvino_int8_exact as e; print(e(127), e(63))"
    assert on_an_old_cpu("-c", code).stdout.split() == ["False", "True"]


def test_half_range_codes_are_exact_here() -> None:
    assert openvino_int8_exact(63)


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86 only")
def test_full_range_engines_are_refused_there_and_half_range_ones_are_right(
    small: Built, small_model: Path, tmp_path: Path
) -> None:
    command = ("-m", "passionsr_trt.runtime.main")
    refused = on_an_old_cpu(*command, "build-engines", str(small.onnx_int8), "-o", str(tmp_path / "full"))
    assert refused.returncode == 1 and "no VNNI" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "full").exists()
    spec, cache, onnx = tmp_path / "spec.json", tmp_path / "cache", tmp_path / "onnx"
    spec.write_text(json.dumps({"weight_code_limit": 63}))
    images = ["--images", str(DEMO / "calib" / "lr"), "--limit", "1"]
    assert main(["calibrate", str(small_model), *images, "--spec", str(spec), "--cache", str(cache)]) == 0
    assert main(["export", str(small_model), "--cache", str(cache), "-o", str(onnx)]) == 0
    # build-engines compares with ONNX Runtime, so success means right numbers
    built = on_an_old_cpu(*command, "build-engines", str(onnx), "-o", str(tmp_path / "half"))
    assert built.returncode == 0, built.stderr
    assert "relative error" in built.stdout


def test_wrong_kernels_are_found_before_engines_are_delivered(
    small: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = openvino_builder.compile_static

    def wrong(path: Path, shape: tuple[int, ...], **more: bool) -> object:
        compiled = original(path, shape, **more)
        return lambda inputs: {0: compiled(inputs)[0] * 1.3}

    monkeypatch.setattr(openvino_builder, "compile_static", wrong)
    with pytest.raises(UserError, match="its kernels are wrong"):
        openvino_builder.prove_engines(OnnxBundle.load(small.onnx_int8), small.engines_int8)


def test_running_out_of_memory_is_called_that() -> None:
    where = "Exception from src/inference/src/cpp/core.cpp:117:\n"
    full = failure("unet", RuntimeError(where + "Failed to allocate 12884901888 bytes of memory\n\n\n"))
    assert str(full).startswith("unet: out of memory (Failed to allocate") and "smaller --tile" in str(full)
    assert str(failure("unet", RuntimeError(where + "no such op\n"))) == "unet (no such op)"
