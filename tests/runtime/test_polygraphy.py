"""The documented polygraphy command lines, run as documented."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.apps.polygraphy_data import load_data

from tests.conftest import DEMO, ROOT, Built, needs_rtx

POLYGRAPHY = str(Path(sys.executable).with_name("polygraphy"))
SCRIPT = str(ROOT / "runtime" / "apps" / "polygraphy_data.py")


def environment(built: Built, part: str) -> dict[str, str]:
    photo = DEMO / "photos" / "lr" / "chelsea.png"
    return {
        "PASSIONSR_FLOAT": str(built.onnx_fp32),
        "PASSIONSR_IMAGES": str(photo),
        "PASSIONSR_PART": part,
        "PASSIONSR_SIZE": "128",
    }


def polygraphy(words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [POLYGRAPHY, *words], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def test_float_and_qdq_graphs_are_compared_on_captured_inputs(small: Built, tmp_path: Path) -> None:
    variables = environment(small, "unet")
    saved = str(tmp_path / "unet.json")
    loader = ["--onnxrt", "--data-loader-script", SCRIPT]
    first = polygraphy(["run", str(small.onnx_fp32 / "unet.onnx"), *loader, "--save-outputs", saved], variables)
    assert first.returncode == 0, first.stdout + first.stderr
    against = ["--load-outputs", saved, "--compare", "snr"]
    again = polygraphy(["run", str(small.onnx_fp32 / "unet.onnx"), *loader, *against], variables)
    assert again.returncode == 0, again.stdout
    exact = str(tmp_path / "int8.json")
    words = [sys.executable, SCRIPT, str(small.onnx_int8 / "unet.onnx"), exact]
    done = subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    against = ["--load-outputs", exact, "--compare", "snr"]
    quantized = polygraphy(["run", str(small.onnx_fp32 / "unet.onnx"), *loader, *against], variables)
    assert "snr" in quantized.stdout.lower() and "clean_latent" in quantized.stdout


def test_the_loader_gives_what_the_part_sees(small: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(small, "vae_decoder").items():
        monkeypatch.setenv(name, value)
    (feed,) = load_data()
    (name,) = feed
    assert name == "clean_latent" and feed[name].shape == (1, 4, 16, 16) and feed[name].dtype == np.float32
    assert 0.01 < feed[name].std() < 100
    monkeypatch.setenv("PASSIONSR_PART", "text_encoder")
    with pytest.raises(UserError, match="expected one of vae_encoder, unet, vae_decoder"):
        next(load_data())
    monkeypatch.delenv("PASSIONSR_PART")
    with pytest.raises(UserError, match="PASSIONSR_PART is not set"):
        next(load_data())


@needs_rtx
def test_polygraphy_converts_the_graph_with_tensorrt_rtx(small: Built, tmp_path: Path) -> None:
    engine = tmp_path / "unet.engine"
    words = ["convert", str(small.onnx_int8 / "unet.onnx"), "--convert-to", "trt", "-o", str(engine)]
    shapes = [word for kind in ("min", "opt", "max") for word in (f"--trt-{kind}-shapes", "latent:[1,4,16,16]")]
    result = polygraphy([*words, *shapes, "--compute-capabilities", "8.9"], {"POLYGRAPHY_USE_TENSORRT_RTX": "1"})
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert engine.stat().st_size > 100_000


def test_an_image_smaller_than_the_square_is_mirrored_out(small: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**environment(small, "vae_encoder"), "PASSIONSR_SIZE": "256"}.items():
        monkeypatch.setenv(name, value)
    (feed,) = load_data()
    image = feed["image"][0]  # 224×150 of the 256×256 are the photo's
    assert image.shape == (3, 256, 256)
    assert np.array_equal(image[:, :, 224:], image[:, :, 192:224][:, :, ::-1])
    assert np.array_equal(image[:, 150:, :], image[:, 44:150, :][:, ::-1, :])
