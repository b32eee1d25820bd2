"""Model folders: what is missing, damaged or foreign is named in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families import weights
from passionsr_trt.export.families.registry import check_model
from passionsr_trt.export.families.stable_diffusion.folder import WEIGHTS, OneStepModel
from safetensors.torch import load_file, save_file


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def drop(state: dict[str, torch.Tensor]) -> None:
    del state["conv_in.weight"]


def misshape(state: dict[str, torch.Tensor]) -> None:
    state["conv_in.weight"] = torch.zeros(1)


def foreign(state: dict[str, torch.Tensor]) -> None:
    state["lora.up"] = torch.zeros(1)


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("no weights", lambda m: (m / "unet" / WEIGHTS).unlink(), f"{WEIGHTS}: missing"),
    ("truncated weights", lambda m: truncate(m / "unet" / WEIGHTS), "not a whole safetensors file"),
    ("missing key", lambda m: edit_weights(m / "unet" / WEIGHTS, drop), "conv_in.weight is missing"),
    (
        "wrong shape",
        lambda m: edit_weights(m / "unet" / WEIGHTS, misshape),
        r"conv_in.weight has shape \[1\]",
    ),
    ("foreign key", lambda m: edit_weights(m / "unet" / WEIGHTS, foreign), "unknown key 'lora.up'"),
    ("no one_step", lambda m: (m / "one_step.json").unlink(), "one_step.json: missing"),
    ("unknown key", lambda m: edit_json(m / "one_step.json", steps=4), "unknown key 'steps'"),
    ("prediction", lambda m: edit_json(m / "one_step.json", prediction="flow"), "prediction is 'flow'"),
    ("upscale", lambda m: edit_json(m / "one_step.json", upscale=8), "upscale is 8"),
    ("timestep", lambda m: edit_json(m / "one_step.json", timestep=5000), "expected less than 1000"),
    ("broken json", lambda m: (m / "one_step.json").write_text("{"), "not valid JSON"),
    ("vae kind", lambda m: edit_json(m / "vae" / "config.json", _class_name="VQModel"), "VAE kind 'VQModel'"),
    ("unet kind", lambda m: edit_json(m / "unet" / "config.json", act_fn="gelu"), "act_fn is 'gelu'"),
    (
        "text width",
        lambda m: save_file({"text_embedding": torch.zeros(1, 7, 9)}, m / "text_embedding.safetensors"),
        r"expected \[1, tokens, 24\]",
    ),
]


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damage_is_named(
    small_model: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    from passionsr_trt.export.families.registry import load_model

    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_model(folder)


FOREIGN: list[tuple[dict[str, str], str]] = [
    (
        {"model_index": "StableDiffusionXLPipeline", "unet/config": "UNet2DConditionModel"},
        "StableDiffusionXLPipeline",
    ),
    ({"config": "AutoencoderKL"}, "AutoencoderKL"),
    ({"vae/config": "AutoencoderKL"}, "AutoencoderKL in vae/"),
    (
        {"vae/config": "AutoencoderTiny", "unet/config": "UNet2DConditionModel"},
        "UNet2DConditionModel in unet/, AutoencoderTiny in vae/",
    ),
]


@pytest.mark.parametrize(("files", "kind"), FOREIGN, ids=[case[1] for case in FOREIGN])
def test_a_foreign_folder_of_diffusers_is_called_by_its_name(
    files: dict[str, str], kind: str, tmp_path: Path
) -> None:
    for name, stated in files.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"_class_name": stated}))
    with pytest.raises(UserError) as raised:
        check_model(tmp_path)
    assert raised.value.fact == f"{tmp_path}: is diffusers' {kind}"
    assert "expected unet/, vae/, one_step.json, or" in str(raised.value) and "\n" not in str(raised.value)


def test_what_only_looks_like_diffusers_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": [1]}')
    with pytest.raises(UserError, match="no model that is known"):
        check_model(tmp_path)


def test_the_digest_follows_the_content_not_the_place(small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_model, folder)
    first = OneStepModel.load(small_model).digest
    assert OneStepModel.load(folder).digest == first
    edit_json(folder / "one_step.json", timestep=500)
    assert OneStepModel.load(folder).digest != first


def test_alpha_bar_is_stable_diffusions(small_model: Path) -> None:
    # √ᾱ = 0.068265 at t = 999 of SD 2.1
    assert OneStepModel.load(small_model).alpha_bar ** 0.5 == pytest.approx(0.068265, rel=1e-4)


def test_weights_that_do_not_fit_are_named_before_they_are_read(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "free_memory", lambda: 2**10)
    with pytest.raises(UserError, match=r"of weights in float32; 0\.0 GiB of memory are free"):
        OneStepModel.load(small_model)
