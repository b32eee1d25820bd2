"""Shared fixtures: the demo's bundles and engines are made once a run, by the real commands."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest
from passionsr_trt.runtime.main import main

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
COMMITTED = ROOT / "tests" / "data" / "small"  # `small`'s ONNX bundles, made by tests/make_data.py
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="needs TensorRT-RTX: compiles an engine"
)
HAS_TORCH = importlib.util.find_spec("torch") is not None


@dataclass(frozen=True)
class Built:
    """Folders of one model's ONNX bundles and OpenVINO engines."""

    onnx_fp32: Path
    onnx_int8: Path
    engines_fp32: Path
    engines_int8: Path


def export(model: Path, cache: Path, out: Path) -> tuple[Path, Path]:
    """The float and the INT8 bundle."""
    assert main(["export", str(model), "--float", "-o", str(out / "onnx_fp32")]) == 0
    assert main(["export", str(model), "--cache", str(cache), "-o", str(out / "onnx_int8")]) == 0
    return out / "onnx_fp32", out / "onnx_int8"


def build(onnx_fp32: Path, onnx_int8: Path, out: Path) -> Built:
    """build-engines, float and INT8."""
    built = Built(onnx_fp32, onnx_int8, out / "engines_fp32", out / "engines_int8")
    assert main(["build-engines", str(onnx_fp32), "-o", str(built.engines_fp32)]) == 0
    assert main(["build-engines", str(onnx_int8), "-o", str(built.engines_int8)]) == 0
    return built


def needs_torch() -> None:
    if not HAS_TORCH:
        pytest.skip("needs PyTorch: exports a model")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The demo model with its committed calibration."""
    needs_torch()
    out = tmp_path_factory.mktemp("demo")
    return build(*export(DEMO / "model", ROOT / "calib_cache", out), out)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-channel AutoencoderKL model at t = 999, ×2."""
    needs_torch()
    from tests.helpers import write_model

    return write_model(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The small model calibrated on two photos, through every stage; without PyTorch from committed bundles."""
    out = tmp_path_factory.mktemp("small_built")
    if not HAS_TORCH:
        return build(COMMITTED / "onnx_fp32", COMMITTED / "onnx_int8", out)
    return build(*calibrate_and_export(request.getfixturevalue("small_model"), out), out)


def calibrate_and_export(model: Path, out: Path) -> tuple[Path, Path]:
    images, cache = str(DEMO / "calib" / "lr"), out / "cache"
    assert main(["calibrate", str(model), "--images", images, "--limit", "2", "--cache", str(cache)]) == 0
    return export(model, cache, out)


@pytest.fixture
def photo() -> Path:
    """The smallest demo photo, 112×75 pixels."""
    return DEMO / "photos" / "lr" / "chelsea.png"
