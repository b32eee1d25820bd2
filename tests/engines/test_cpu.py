"""CPUs whose INT8 saturates: found by the probe, and served by ±63 codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.bundle.backends import OpenVINOTarget
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.formats import HALF_RANGE
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.openvino import compile as openvino_compile
from passionsr_trt.engines.openvino.compile import code_limit, failure, openvino_int8_exact
from passionsr_trt.engines.openvino.revision import REVISION
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import TINY, Built, needs_torch

COMMAND = ("-m", "passionsr_trt.runtime.main")
x86 = pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86 only")
OLD_CPU = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}


def on_an_old_cpu(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], env=OLD_CPU, capture_output=True, text=True, check=False)


@x86
def test_the_probe_sees_saturation() -> None:
    code = (
        "from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE\n"
        "from passionsr_trt.engines.openvino.compile import openvino_int8_exact as exact\n"
        "print(exact(FULL_RANGE), exact(HALF_RANGE))"
    )
    assert on_an_old_cpu("-c", code).stdout.split() == ["False", "True"]


def test_a_cpu_kept_to_avx2_has_no_bfloat16() -> None:
    done = on_an_old_cpu(
        "-c", "from passionsr_trt.engines.openvino.compile import has_bfloat16; print(has_bfloat16())"
    )
    assert done.stdout.strip() == "False", done.stderr


def test_half_range_codes_are_exact_here() -> None:
    assert openvino_int8_exact(HALF_RANGE)


def psnr(first: Path, second: Path) -> float:
    with Image.open(first) as a, Image.open(second) as b:
        difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


@pytest.mark.slow
@x86
def test_full_range_bundles_are_brought_into_range_where_the_cpu_saturates(small: Built, tmp_path: Path) -> None:
    words = ("build-engines", str(small.onnx_int8), "-o", str(tmp_path / "engines"))
    # build-engines compares with ONNX Runtime, so success means right numbers
    built = on_an_old_cpu(*COMMAND, *words)
    assert built.returncode == 0, built.stderr
    line = next(line for line in built.stdout.splitlines() if "no VNNI" in line)
    assert "within ±63" in line and '"weight_code_limit": 63' in line
    assert float(re.search(r"([\d.]+) dB to the bundle", line)[1]) > 24  # type: ignore[index]
    assert EngineBundle.load(tmp_path / "engines").target.weight_code_limit == 63
    again = on_an_old_cpu(*COMMAND, *words)
    assert "reused" in again.stdout


@x86
def test_engines_of_another_machine_are_brought_into_range_when_they_are_loaded(
    small: Built, photo: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "engines"
    shutil.copytree(small.onnx_int8, foreign)  # an OpenVINO engine is a graph
    (foreign / "manifest.json").unlink()
    here = EngineBundle.load(small.engines_int8)
    target = OpenVINOTarget(
        False, REVISION, weight_code_limit=None, convolutions=False, phases=False, blocks=False
    )
    replace(here, target=target).save(foreign)
    words = ("infer", str(photo), "--engines", str(foreign), "--align", "none", "--no-cache", "-o")
    done = on_an_old_cpu(*COMMAND, *words, str(tmp_path / "old.png"))
    assert done.returncode == 0 and "weight codes are brought within ±63" in done.stderr
    exact = ("infer", str(photo), "--engines", str(small.onnx_int8), "--align", "none", "--provider", "cpu", "-o")
    assert main([*exact, str(tmp_path / "exact.png")]) == 0
    assert psnr(tmp_path / "old.png", tmp_path / "exact.png") > 24


@x86
def test_half_range_bundles_are_built_as_they_are(tmp_path: Path) -> None:
    needs_torch()
    from tests.export.networks import write_small

    network = str(write_small("Compact", tmp_path / "network.safetensors"))
    spec, cache, onnx = tmp_path / "spec.json", tmp_path / "cache", tmp_path / "onnx"
    spec.write_text(json.dumps({"method": "range", "weight_code_limit": 63, "min_channels": 0}))
    images = ["--images", str(TINY), "--limit", "1"]
    assert main(["calibrate", network, *images, "--spec", str(spec), "--cache", str(cache)]) == 0
    assert main(["export", network, "--cache", str(cache), "-o", str(onnx)]) == 0
    built = on_an_old_cpu(*COMMAND, "build-engines", str(onnx), "-o", str(tmp_path / "half"))
    assert built.returncode == 0, built.stderr
    assert "relative error" in built.stdout and "no VNNI" not in built.stdout
    coverage = EngineBundle.load(tmp_path / "half").coverage["network"]
    assert coverage.sites_int8 == coverage.sites_quantized == 3, "all but the first and the last"


def test_a_cpu_that_is_exact_in_no_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = QuantSpec()
    monkeypatch.setattr(openvino_compile, "openvino_int8_exact", lambda codes: False)
    assert code_limit(None) is None
    with pytest.raises(UserError, match="use the float engines"):
        code_limit(spec)
    monkeypatch.setattr(openvino_compile, "openvino_int8_exact", lambda codes: codes.high <= 63)
    assert code_limit(spec) == 63 and code_limit(spec, built=63) is None
    assert code_limit(QuantSpec(bits_weights=6)) is None, "six bits are in range as they are"


def test_running_out_of_memory_is_called_that() -> None:
    where = "Exception from src/inference/src/cpp/core.cpp:117:\n"
    full = failure("unet", RuntimeError(where + "Failed to allocate 12884901888 bytes of memory\n\n\n"))
    assert str(full).startswith("unet: out of memory (Failed to allocate") and "smaller --tile" in str(full)
    assert str(failure("unet", RuntimeError(where + "no such op\n"))) == "unet (no such op)"
