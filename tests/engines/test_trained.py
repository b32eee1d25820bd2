"""Trained networks' engines: OpenVINO's INT8 within half a dB of what its bundle says, by the exact reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE
from passionsr_trt.engines.openvino.compile import openvino_int8_exact
from passionsr_trt.runtime.backends.loading import open_engines, open_onnx
from passionsr_trt.runtime.core.metrics import psnr
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from passionsr_trt.runtime.main import main
from PIL import Image

from benchmarks.trained_networks import Unavailable, ncnn_files
from tests.conftest import DEMO, HAS_TORCH

if not HAS_TORCH:
    pytest.skip("exports a network: needs PyTorch", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spanx4_ch48", pytest.param("x4plus-anime", marks=pytest.mark.accept)])
def test_a_trained_networks_engine_is_as_close_as_its_bundle(name: str, tmp_path: Path) -> None:
    """Weight codes fit the CPU, so that what parts the two is the engine alone."""
    try:
        files = ncnn_files(name)
    except Unavailable as error:
        pytest.skip(str(error))
    network, spec, images = tmp_path / "network.safetensors", tmp_path / "spec.json", tmp_path / "images"
    assert main(["import-model", *map(str, files), "-o", str(network)]) == 0
    spec.write_text(
        json.dumps({"weight_code_limit": (FULL_RANGE if openvino_int8_exact(FULL_RANGE) else HALF_RANGE).high})
    )
    images.mkdir()
    picture = Image.open(DEMO / "photos" / "lr" / "astronaut.png").convert("RGB")
    for index, left in enumerate((0, 80)):
        picture.crop((left, 0, left + 48, 48)).save(images / f"{index}.png")
    words = ["--cache", str(tmp_path / "cache")]
    given = ["--images", str(images), "--spec", str(spec), "--method", "range"]
    assert main(["calibrate", str(network), *given, *words]) == 0
    assert main(["export", str(network), "--float", "-o", str(tmp_path / "float")]) == 0
    assert main(["export", str(network), *words, "-o", str(tmp_path / "int8")]) == 0
    engines = ["build-engines", str(tmp_path / "int8"), "--float32", "-o", str(tmp_path / "engines")]
    assert main(engines) == 0, "the engine is what its bundle says"
    chains = (
        *(open_onnx(OnnxBundle.load(tmp_path / kind)) for kind in ("float", "int8")),
        open_engines(EngineBundle.load(tmp_path / "engines")),
    )
    shown = picture.crop((40, 30, 80, 62))
    wanted, bundle, engine = (super_resolve(chain, shown, Options()).image for chain in chains)
    assert psnr(wanted, bundle) > 28, "what range calibration gives these two"
    assert psnr(wanted, engine) > psnr(wanted, bundle) - 0.5
