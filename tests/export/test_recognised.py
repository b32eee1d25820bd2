"""`import-model` says what it was given where that is something else, and the command that takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.manifest import write_manifest
from passionsr_trt.runtime.main import main

from tests.conftest import COMMITTED, DEMO
from tests.export.networks import write_small


def made(folder: Path, kind: str) -> Path:
    folder.mkdir()
    write_manifest(folder, {"kind": kind})
    return folder


def cases(folder: Path) -> dict[Path, tuple[str, str]]:
    """What is given → what it is called, and the way out."""
    texts, lora, sinsr, binary, pipeline, empty = (
        folder / name for name in ("notes.txt", "osediff.pkl", "SinSR.pth", "bi.pth", "sdxl", "empty")
    )
    texts.write_text("hello\n")
    torch.save({"state_dict_unet": {"conv_in.lora_A.default.weight": torch.zeros(1)}}, lora)
    torch.save({"state_dict": {"module.middle_block.0.in_layers.2.weight": torch.zeros(1)}}, sinsr)
    torch.save({"params": {"downs.1.res_block.block1.conv.binary_conv.weight": torch.zeros(1)}}, binary)
    pipeline.mkdir()
    empty.mkdir()
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (folder / "page.ckpt").write_text("<!doctype html>")
    bundle, network = COMMITTED / "onnx_int8", DEMO / "realesrgan" / "network.safetensors"
    mine = write_small("Compact", folder / "mine.pth")
    return {
        network: ("is an image network (Compact ×4)", f"`passionsr-trt calibrate {network} --images …`"),
        mine: ("is an image network (Compact ×3)", "it needs no import"),
        bundle: ("holds an ONNX bundle", f"`passionsr-trt build-engines {bundle} -o …`"),
        made(folder / "engines", "engine-bundle"): ("holds engines", "`passionsr-trt infer PICTURES"),
        made(folder / "calibration", "calibration"): ("holds a calibration", "export MODEL --calibration"),
        folder / "missing": ("not there", "OWNER/NAME of the hub"),
        texts: ("is text by its content", "expected a checkpoint of weights"),
        folder / "page.ckpt": ("is a web page by its content", "get the file itself"),
        lora: ("is a LoRA", f"import-model BASE --lora {lora} -o …"),
        binary: ("is BI-DiffSR's UNet", "--family bidiffsr --unet FILE"),
        sinsr: ("is ResShift's UNet", "--family resshift --unet FILE"),
        pipeline: ("is diffusers' FluxPipeline", "expected a diffusers folder with unet/"),
        empty: ("is empty", "expected a diffusers folder with unet/"),
    }


def test_another_kind_is_called_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, (what, way) in cases(tmp_path).items():
        assert main(["import-model", str(given), "-o", str(tmp_path / "out")]) == 1, given
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {given}: {what}") and way in line, line
    assert not (tmp_path / "out").exists()


def test_a_family_that_was_named_says_so_too(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["import-model", "--family", "image-network", "-o", str(tmp_path / "out")]
    assert main([*words, str(small_model)]) == 1
    line = capsys.readouterr().err
    assert "is a model folder of stable-diffusion already" in line and "passionsr-trt calibrate" in line
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    assert main([*words, str(pipeline)]) == 1
    assert "is diffusers' StableDiffusionPipeline; expected a network's own file; leave --family out" in (
        capsys.readouterr().err
    )
    torch.save({"model.diffusion_model.out.2.weight": torch.zeros(1)}, tmp_path / "sd.ckpt")
    assert main(["import-model", str(tmp_path / "sd.ckpt"), "-o", str(tmp_path / "out")]) == 1
    assert "one file, whose text encoder is not read; expected the prompt's embedding" in capsys.readouterr().err
