"""Shared fixtures: the demo's bundles and engines are made once a run, by the real commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from passionsr_trt.runtime.main import main

from tests.helpers import write_model

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"


@dataclass(frozen=True)
class Built:
    """Folders of one model's ONNX bundles and OpenVINO engines."""

    onnx_fp32: Path
    onnx_int8: Path
    engines_fp32: Path
    engines_int8: Path


def build(model: Path, cache: Path, out: Path) -> Built:
    """export and build-engines, float and INT8."""
    built = Built(out / "onnx_fp32", out / "onnx_int8", out / "engines_fp32", out / "engines_int8")
    assert main(["export", str(model), "--float", "-o", str(built.onnx_fp32)]) == 0
    assert main(["export", str(model), "--cache", str(cache), "-o", str(built.onnx_int8)]) == 0
    assert main(["build-engines", str(built.onnx_fp32), "-o", str(built.engines_fp32)]) == 0
    assert main(["build-engines", str(built.onnx_int8), "-o", str(built.engines_int8)]) == 0
    return built


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The demo model with its committed calibration."""
    return build(DEMO / "model", ROOT / "calib_cache", tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-channel AutoencoderKL model at t = 999, ×2."""
    return write_model(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def small(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The small model calibrated on two photos, through every stage."""
    out = tmp_path_factory.mktemp("small_built")
    images = str(DEMO / "calib" / "lr")
    cache = out / "cache"
    assert main(["calibrate", str(small_model), "--images", images, "--limit", "2", "--cache", str(cache)]) == 0
    return build(small_model, cache, out)


@pytest.fixture
def photo() -> Path:
    """The smallest demo photo, 112×75 pixels."""
    return DEMO / "photos" / "lr" / "chelsea.png"
