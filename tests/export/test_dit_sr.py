"""DiT-SR: the authors' numbers, AdaFM as a matrix, every command. The rest is ResShift's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.resshift import reference
from passionsr_trt.export.families.resshift.chain import ResShiftModel, build_model
from passionsr_trt.export.families.resshift.checkpoints import autoencoder_of, read_state, unet_of
from passionsr_trt.export.families.resshift.family import read_model
from passionsr_trt.export.families.resshift.sampler import RELEASED, Step, Steps
from passionsr_trt.export.families.resshift.unet import LastUNet, LrBranch, adafm_matrix, layers_of
from passionsr_trt.export.model.part import smooth_sources
from passionsr_trt.export.model.proof import TOLERANCE, relative_error
from passionsr_trt.runtime.main import main
from PIL import Image
from torch import Tensor, nn

from tests.conftest import DEMO, TINY
from tests.export.resshift import import_small, write_small
from tests.export.test_resshift import psnr

NUMBERS = os.environ.get("DIT_SR_SMALL")  # a folder: unet.pth, expected.safetensors, _lite, _face
AUTOENCODER = os.environ.get("RESSHIFT_SMALL")  # a folder: small_vq.pth
given = pytest.mark.skipif(NUMBERS is None or AUTOENCODER is None, reason="DIT_SR_SMALL names no numbers")
SMALL = {"levels": (1, 2), "vae_levels": (1, 1, 1), "window": 8, "adaptive": True}
FACES = {"levels": (1,), "vae_levels": (1, 1, 1), "window": 4, "adaptive": True, "latent": 8, "branch": (32, 64)}


def numbers(name: str) -> tuple[reference.UNetModelSwin, dict[str, Tensor]]:
    from safetensors.torch import load_file

    path = Path(NUMBERS or "") / f"unet{name}.pth"
    return unet_of(read_state(path, "unet"), path), load_file(path.with_name(f"expected{name}.safetensors"))


@given
@torch.no_grad()
def test_single_evaluations_are_the_authors() -> None:
    unet, expected = numbers("")
    lite, expected_lite = numbers("_lite")
    for network, x, lr, found in (
        *((unet, expected["eval.x"], expected["lr"], (t, expected[f"eval.t{t}"])) for t in (0, 3, 7, 14)),
        (unet, expected["eval_wide.x"], expected["lr_wide"], (5, expected["eval_wide.t5"])),
        *((lite, expected_lite["x"], expected_lite["lr"], (t, expected_lite[f"eval.t{t}"])) for t in (2, 9)),
        (lite, expected_lite["x_wide"], expected_lite["lr_wide"], (9, expected_lite["eval_wide.t9"])),
    ):
        timestep, theirs = found
        assert relative_error(theirs, network(torch.cat([x, lr], dim=1), timestep)) <= TOLERANCE


@given
@torch.no_grad()
def test_the_layout_for_faces_is_the_authors() -> None:
    """Features of the LR picture eight times the latent's size, by the reference and by the deployable branch."""
    unet, expected = numbers("_face")
    assert (unet.features, unet.reduction, unet.inputs, unet.outputs) == (128, 8, 136, 8)
    features = unet.features_of(expected["lr"])
    assert relative_error(expected["features"], features) <= TOLERANCE
    assert relative_error(expected["eval.t2"], unet(torch.cat([expected["x"], features], dim=1), 2)) <= TOLERANCE
    branch, step = LrBranch(unet.feature_extractor), Step("unet_1", 2, 0.0)  # nothing scales its input
    assert relative_error(expected["features"], branch(expected["lr"])) <= TOLERANCE
    folded = LastUNet(unet, layers_of(unet), step)
    assert relative_error(expected["eval.t2"], folded(expected["x"], branch(expected["lr"]))) <= TOLERANCE


@given
@torch.no_grad()
def test_a_block_and_its_matrix_are_the_authors() -> None:
    unet, expected = numbers("")
    block = unet.get_submodule("input_blocks.5.0.blocks.1")
    assert isinstance(block, reference.SwinBlock) and block.adaLN_scale_msa is not None
    embedding = expected["block.emb"]
    assert relative_error(embedding, unet.embedding(7)) <= TOLERANCE
    assert relative_error(expected["block.out"], block(expected["block.in"], embedding)) <= TOLERANCE
    matrix = adafm_matrix(block.adaLN_scale_msa, block.window, embedding)
    assert relative_error(expected["block.adafm_msa_matrix"], matrix) <= 1e-6


@given
@pytest.mark.parametrize("name", ["s4", "s4_wide", "s15"])
@torch.no_grad()
def test_the_authors_own_trajectories_are_reproduced(name: str) -> None:
    unet, every = numbers("")
    vq = Path(AUTOENCODER or "") / "small_vq.pth"
    expected = {key.removeprefix(f"{name}."): x for key, x in every.items() if key.startswith(f"{name}.")}
    count = len(expected["noise"])
    sampler = Steps(2.0, RELEASED[count], 0.99, 0.3, count)
    original = ResShiftModel("", sampler, unet, autoencoder_of(read_state(vq, "autoencoder"), vq))
    built, x = build_model(original), expected["x"]
    sources = {"lr": every["lr_wide" if name == "s4_wide" else "lr"], "noise": expected["noise"][:1]}
    sources |= {step.noise: expected["noise"][n][None] for n, step in enumerate(sampler.run(), 1) if step.drawn}
    for n, step in enumerate(sampler.run()):
        fed = {**sources, built.part(step.name).inputs[0].name: x[n][None], "z_y": expected["z_y"]}
        x0 = original.denoise(step, x[n][None], sources["lr"])
        assert relative_error(expected["pred_x0"][n][None], x0) <= TOLERANCE
        assert relative_error(x[n + 1][None], built.part(step.name).run(fed)) <= TOLERANCE
    found = built.run(sources)
    codes = built.part("vq_decoder").module.codebook.search(found["x0"]).flatten()
    flips = int((codes != expected["codes"].flatten()).sum())
    print(f"{name}: x0 {relative_error(x[-1:], found['x0']):.1e} from theirs, {flips} codes differ")
    assert relative_error(x[-1:], found["x0"]) <= 1e-3 and flips <= 2
    if "image" in expected:
        assert psnr(built.part("vq_decoder").run({"x0": x[-1:]}), expected["image"]) >= 60


@torch.no_grad()
def test_adafm_at_a_timestep_is_a_symmetric_matrix_on_the_positions_of_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    scale, embedding = nn.Sequential(nn.SiLU(), nn.Linear(16, 40)), torch.randn(1, 16, generator=generator)
    matrix = adafm_matrix(scale, 8, embedding)
    assert torch.allclose(matrix, matrix.t(), atol=1e-6)
    x = torch.randn(2, 3, 16, 24, generator=generator)
    patches = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    made = (patches.flatten(4) @ matrix.t()).reshape(patches.shape).transpose(3, 4).reshape(x.shape)
    assert relative_error(reference.adafm(x, scale(embedding).reshape(8, 5)), made) <= TOLERANCE


def test_the_layout_for_faces_enlarges_nothing_and_has_its_branch_once(tmp_path: Path) -> None:
    model = import_small(tmp_path, steps=4, **FACES)
    built = load_model(model)
    assert built.upscale == 1 and max(built.errors.values()) <= TOLERANCE
    assert [part.name for part in built.parts] == [
        "vq_encoder", "lr_branch", "unet_4", "unet_3", "unet_2", "unet_1", "vq_decoder"
    ]  # fmt: skip
    assert [str(tensor) for tensor in built.part("unet_3").inputs] == [
        "x3 [B, 8, H/4, W/4]", "noise_3 [B, 8, H/4, W/4]", "features [B, 64, H/4, W/4]"
    ]  # fmt: skip
    original = read_model(model)
    sources = smooth_sources(built.parts, (32, 48), seed=3)
    tensors = {**sources, **original.reference(sources)}
    for part in built.parts[:-1]:
        assert relative_error(tensors[part.output.name], part.run(tensors)) <= TOLERANCE, part.name


def test_a_branch_that_makes_more_small_than_the_autoencoder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet, autoencoder = write_small(tmp_path, **{**FACES, "branch": (16, 32, 64)})
    words = ["import-model", "--family", "resshift", "--unet", str(unet), "--autoencoder", str(autoencoder)]
    assert main([*words, "--steps", "4", "-o", str(tmp_path / "model")]) == 1
    assert "the UNet its own 8 times" in capsys.readouterr().err


@pytest.mark.accept
@pytest.mark.parametrize("sizes", [SMALL, FACES], ids=["full", "faces"])
def test_import_to_engines(sizes: dict[str, Any], tmp_path: Path) -> None:
    """Every fold is proved on the way, in every graph too; then a photo of odd size."""
    model = import_small(tmp_path, steps=4, **sizes)
    built = load_model(model)
    assert [part.name for part in built.parts][-5:-1] == ["unet_4", "unet_3", "unet_2", "unet_1"]
    assert max(built.errors.values()) <= TOLERANCE
    words = ["calibrate", str(model), "--images", str(TINY), "--limit", "1", "--method", "range"]
    assert main([*words, "--cache", str(tmp_path / "cache")]) == 0
    assert main(["export", str(model), "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "onnx")]) == 0
    assert main(["build-engines", str(tmp_path / "onnx"), "-o", str(tmp_path / "engines")]) == 0
    engines = EngineBundle.load(tmp_path / "engines")
    for part in engines.parts:
        coverage = engines.coverage[part.name]
        assert coverage.sites_int8 == coverage.sites_quantized == len(part.sites) - 2, part.name
    with Image.open(DEMO / "calib" / "lr" / "000.png") as photo:
        photo.convert("RGB").crop((0, 0, 45, 61)).save(tmp_path / "photo.png")
    words = ["infer", str(tmp_path / "photo.png"), "--engines", str(tmp_path / "engines"), "-o"]
    assert main([*words, str(tmp_path / "whole.png")]) == 0
    with Image.open(tmp_path / "whole.png") as made:
        assert made.size == (45 * built.upscale, 61 * built.upscale)
