"""A family in the steps that CONTRIBUTING.md names: one package, one line of the registry, no other room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.export.families import registry
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import DEMO, ROOT
from tests.export.toy_family import chain
from tests.export.toy_family.family import ToyDiffusion
from tests.export.toy_family.reference import ToyModel


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The line in the registry, and a folder that `import-model` made of a checkpoint with random weights."""
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, ToyDiffusion()))
    torch.manual_seed(0)
    torch.save(ToyModel().state_dict(), tmp_path / "toy.pth")
    folder = tmp_path / "model"
    words = ["import-model", "--family", "toy-diffusion", str(tmp_path / "toy.pth"), "-o", str(folder)]
    assert main(words) == 0
    return folder


def test_a_toy_diffusion_model_becomes_engines_that_make_pictures(toy: Path, photo: Path, tmp_path: Path) -> None:
    cache, images = str(tmp_path / "cache"), str(DEMO / "calib" / "lr")
    words = ["--images", images, "--limit", "1", "--method", "range", "--cache", cache]
    assert main(["calibrate", str(toy), *words]) == 0
    made = {kind: str(tmp_path / kind) for kind in ("float", "int8", "engines")}
    assert main(["export", str(toy), "--float", "-o", made["float"]]) == 0
    assert main(["export", str(toy), "--cache", cache, "-o", made["int8"]]) == 0
    assert main(["build-engines", made["int8"], "-o", made["engines"]]) == 0
    pictures = []
    for engines, more in ((made["float"], ["--provider", "cpu"]), (made["engines"], [])):
        words = ["infer", str(photo), "-o", f"{engines}.png", "--engines", engines, *more]
        assert main(words) == 0
        pictures.append(np.asarray(Image.open(f"{engines}.png"), float))
    bundle = OnnxBundle.load(tmp_path / "int8")
    assert bundle.model.family == "toy-diffusion"
    wiring = [[str(tensor) for tensor in (*part.inputs, part.output)] for part in bundle.parts]
    assert wiring == [
        ["lr [B, 3, H/2, W/2]", "noise [B, 3, H/2, W/2]", "clean [B, 3, H/2, W/2]"],
        ["clean [B, 3, H/2, W/2]", "picture [B, 3, H, W]"],
    ]
    coverage = EngineBundle.load(tmp_path / "engines").coverage
    # all but each part's first and last convolution: down, conv1, conv2, to_q, to_k, to_v, to_out, up; up
    assert {name: found.sites_int8 for name, found in coverage.items()} == {"unet": 8, "decoder": 1}
    assert {picture.shape for picture in pictures} == {(150, 224, 3)}
    assert pictures[0].std() > 20, "a picture, not a grey"
    assert 0 < np.abs(pictures[1] - pictures[0]).mean() < 2


def test_the_proof_refuses_a_fold_that_is_wrong(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    built = chain.UNet
    monkeypatch.setattr(chain, "UNet", lambda unet, timestep, sigma: built(unet, timestep + 100, sigma))
    assert main(["export", str(toy), "--float", "-o", str(tmp_path / "out")]) == 1
    assert "unet: its output changed by" in capsys.readouterr().err


def test_a_row_of_absorb_that_fits_nowhere_is_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(chain, "UNET_ABSORB", (chain.Absorb("attention.to_q", "no_such_norm"),))
    words = ["--images", str(DEMO / "calib" / "lr"), "--limit", "1", "--method", "search"]
    assert main(["calibrate", str(toy), *words, "--cache", str(tmp_path / "cache")]) == 1
    assert "no_such_norm: cannot absorb attention.to_q" in capsys.readouterr().err


class Twin(ToyDiffusion):
    """Another family that was copied from it, with the same option."""

    name = "twin"


def test_two_families_with_one_option_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, ToyDiffusion(), Twin()))
    assert main(["import-model", "--help"]) == 1
    assert capsys.readouterr().err == (
        "error: twin: --sigma is an option of toy-diffusion already; expected a name of its own; "
        "change it in the family's add_arguments\n"
    )


@pytest.mark.parametrize(("option", "owner"), [("--file", "import-model"), ("--lora", "stable-diffusion")])
def test_a_family_s_option_may_be_nobody_else_s(
    option: str, owner: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Twin, "add_arguments", lambda _self, parser: parser.add_argument("-q", option))
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, Twin()))
    assert main(["import-model", "base", "-o", "out"]) == 1
    assert f"twin: {option} is an option of {owner} already" in capsys.readouterr().err


def test_the_page_of_families_shows_this_one() -> None:
    page = (ROOT / "export" / "families" / "README.md").read_text(encoding="utf-8")
    code = (Path(chain.__file__)).read_text(encoding="utf-8")
    shown = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    assert shown
    assert all(block in code for block in shown)
