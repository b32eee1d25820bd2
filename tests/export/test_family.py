"""A family is one package and one line in the registry: a toy one goes through every command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.export.families import registry
from passionsr_trt.export.families.weights import folder_digest, read_json, read_weights
from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.part import Model, Part, Tensors, smooth_sources
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.runtime.main import main
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.conftest import DEMO


class Body(nn.Module):
    """Three convolutions and a pixel shuffle: lr [B, 3, h, w] in [-1, 1] → [B, 3, 2h, 2w]."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        pairs = [(state[f"conv.{i}.weight"], state[f"conv.{i}.bias"]) for i in range(3)]
        self.conv = nn.ModuleList(SiteConv(weight, bias, 1, 1) for weight, bias in pairs)

    def forward(self, lr: Tensor) -> Tensor:
        hidden = F.relu(self.conv[1](F.relu(self.conv[0](lr))))
        return F.pixel_shuffle(self.conv[2](hidden), 2)


class Toy:
    """Ten lines of wiring; the reference is the plain PyTorch model."""

    name = "toy"
    folder = "toy.json, toy.safetensors"

    def detect(self, folder: Path) -> bool:
        return (folder / "toy.json").is_file()

    def load(self, folder: Path) -> Model:
        state = read_weights(folder / "toy.safetensors")
        upscale = int(read_json(folder / "toy.json")["upscale"])
        part = Part(
            "body",
            Body(state).eval(),
            (TensorInfo("lr", 3, upscale),),
            TensorInfo("picture", 3, 1),
            upscale,
            absorb=(Absorb("conv.1", "conv.0", Into.ROWS, takes_shift=False),),
        )

        def reference(sources: Tensors) -> dict[str, Tensor]:
            x = sources["lr"]
            for i in range(3):
                x = F.conv2d(F.relu(x) if i else x, state[f"conv.{i}.weight"], state[f"conv.{i}.bias"], padding=1)
            return {"picture": F.pixel_shuffle(x, upscale)}

        model = Model(self.name, folder_digest(folder), upscale, "none", (part,), reference)
        model.prove(smooth_sources(model.parts, (64, 64)))
        return model

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """None."""

    def import_model(self, arguments: argparse.Namespace) -> int:
        raise NotImplementedError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy model that enlarges by copying, with 16 noisy channels between."""
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, Toy()))
    torch.manual_seed(0)
    state = {}
    for index, (inputs, outputs) in enumerate(((3, 16), (16, 16), (16, 12))):
        weight = torch.randn(outputs, inputs, 3, 3) * 0.02
        for channel in range(outputs):
            weight[channel, (channel // 4 if index == 2 else channel) % inputs, 1, 1] += 1
        state |= {f"conv.{index}.weight": weight, f"conv.{index}.bias": torch.full((outputs,), 0.1)}
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(state, folder / "toy.safetensors")
    (folder / "toy.json").write_text(json.dumps({"upscale": 2}))
    return folder


@pytest.mark.parametrize("method", ["range", "learned"])
def test_a_toy_family_goes_through_every_command(toy: Path, photo: Path, tmp_path: Path, method: str) -> None:
    cache, images = str(tmp_path / "cache"), str(DEMO / "calib" / "lr")
    spec = tmp_path / "spec.json"
    steps = {
        "method": method,
        "let_steps": 2,
        "lbq_steps": 2,
        "correction_steps": 2,
        "keep_first_last": False,
        "min_channels": 0,
    }
    spec.write_text(json.dumps(steps))
    words = ["calibrate", str(toy), "--images", images, "--limit", "2", "--spec", str(spec), "--cache", cache]
    assert main(words) == 0
    for kind, more in (("float", ["--float"]), ("int8", ["--cache", cache])):
        onnx, engines = str(tmp_path / f"onnx_{kind}"), str(tmp_path / f"engines_{kind}")
        assert main(["export", str(toy), *more, "-o", onnx]) == 0
        assert main(["build-engines", onnx, "-o", engines]) == 0
        for name, options in (("whole", []), ("tiled", ["--tile", "128", "--overlap", "32", "--batch", "3"])):
            out = str(tmp_path / f"{kind}_{name}.png")
            assert main(["infer", str(photo), "-o", out, "--engines", engines, *options]) == 0
    bundle = OnnxBundle.load(tmp_path / "onnx_int8")
    assert [str(tensor) for part in bundle.parts for tensor in (*part.inputs, part.output)] == [
        "lr [B, 3, H/2, W/2]",
        "picture [B, 3, H, W]",
    ]
    assert EngineBundle.load(tmp_path / "engines_int8").coverage["body"].sites_int8 == 3
    pictures = {path.stem: np.asarray(Image.open(path), float) for path in tmp_path.glob("*.png")}
    assert {picture.shape for picture in pictures.values()} == {(150, 224, 3)}
    assert 0 < np.abs(pictures["int8_whole"] - pictures["float_whole"]).mean() < 4
    assert np.abs(pictures["float_tiled"] - pictures["float_whole"]).max() <= 1, "convolutions see no further"
    out, words = tmp_path / "compare", ["compare", str(photo), "--reference", str(tmp_path / "onnx_float")]
    assert main([*words, "--engines", str(tmp_path / "engines_int8"), "-o", str(out), "--min-psnr", "30"]) == 0
    words = [
        "benchmark",
        "--engines",
        str(tmp_path / "engines_int8"),
        "--baseline",
        str(tmp_path / "engines_float"),
    ]
    assert main([*words, "-o", str(out), "--size", "64x64"]) == 0
    assert list(json.loads((out / "benchmark.json").read_text())["speedup_over_fastest_parts"]) == [
        "body",
        "chain",
    ]
    words = ["sensitivity", str(toy), "--images", images, "--limit", "1", "--cache", cache, "-o", str(out)]
    assert main(words) == 0


def test_what_no_family_knows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "something.txt").write_text("")
    assert main(["export", str(tmp_path), "--float", "-o", str(tmp_path / "out")]) == 1
    assert "no model that is known; expected unet/, vae/, one_step.json" in capsys.readouterr().err
