"""Folded constants: the deployable parts equal the model as diffusers runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.stable_diffusion.chain import build_model
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.model.proof import TOLERANCE, FoldError, prove
from passionsr_trt.export.model.sites import Site

from tests.helpers import write_model


@pytest.mark.parametrize("prediction", ["epsilon", "v", "residual"])
@pytest.mark.parametrize("vae", ["AutoencoderKL", "AutoencoderTiny"])
def test_every_fold_is_exact(tmp_path: Path, vae: str, prediction: str) -> None:
    folder = write_model(tmp_path / "model", vae, {"prediction": prediction, "timestep": 700})
    errors = load_model(folder).errors
    assert set(errors) == {"vae_encoder", "unet", "vae_decoder"}
    assert max(errors.values()) <= TOLERANCE


def test_a_sampled_posterior_takes_noise_by_its_scaled_deviation(tmp_path: Path) -> None:
    model = OneStepModel.load(write_model(tmp_path / "model", one_step={"posterior": "sample"}))
    part = build_model(model).part("vae_encoder")
    assert [tensor.name for tensor in part.inputs] == ["image", "noise"]
    image, noise = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 8, 8)
    posterior = model.vae.encode(image).latent_dist
    drawn, mean = (part.run({"image": image, "noise": noise * on}) for on in (1, 0))
    torch.testing.assert_close(mean, posterior.mean * 0.18215, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drawn - mean, posterior.std * noise * 0.18215, rtol=1e-3, atol=1e-5)


def test_convolutional_projections_are_understood(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", unet={"use_linear_projection": False})
    assert load_model(folder).errors["unet"] <= TOLERANCE


def test_constants_leave_the_graph(small_model: Path) -> None:
    names = {name for name, _ in load_model(small_model).part("unet").module.named_parameters()}
    assert not [name for name in names if "time_emb" in name or "attn2.to_k" in name or "attn2.to_v" in name]


def test_a_wrong_fold_is_refused_and_names_its_site(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Site.scale_output

    def wrong(site: Site, gain: float, offset: float = 0.0) -> None:
        original(site, gain * 1.01, offset)

    monkeypatch.setattr(Site, "scale_output", wrong)
    with pytest.raises(FoldError, match=r"unet\.down_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn1"):
        load_model(small_model)


def test_a_result_that_is_not_a_number_is_no_proof() -> None:
    with pytest.raises(FoldError, match="site"):
        prove("site", torch.ones(2), torch.tensor([1.0, float("nan")]))
