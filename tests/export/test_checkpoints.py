"""Published layouts → model folder: one file, a LoRA of OSEDiff's, and what must be refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.export.families.stable_diffusion.checkpoints import SD21
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel, read_json
from passionsr_trt.export.families.stable_diffusion.lora import LORA_ALPHA
from passionsr_trt.runtime.main import main
from safetensors.torch import save_file

from tests.export.ldm import single_file, unet_names, vae_names

RANK = 4
ADAPTED = {
    "conv_in": "default_encoder",
    "down_blocks.0.resnets.0.conv1": "default_encoder",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "default_encoder",
    "mid_block.attentions.0.proj_in": "default_others",
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj": "default_decoder",
}


@pytest.fixture(scope="module")
def base(small_model: Path) -> OneStepModel:
    return OneStepModel.load(small_model)


def lora(weights: dict[str, torch.Tensor], adapted: dict[str, str], rank: int = RANK) -> dict[str, torch.Tensor]:
    """PEFT's keys for some weights, random."""
    result = {}
    for name, adapter in adapted.items():
        out, *rest = weights[f"{name}.weight"].shape
        ones = [1] * (len(rest) - 1)
        result[f"{name}.lora_A.{adapter}.weight"] = torch.randn(rank, *rest) * 0.05
        result[f"{name}.lora_B.{adapter}.weight"] = torch.randn(out, rank, *ones) * 0.05
    return result


def words(base: Path | str, folder: Path, *more: object) -> list[str]:
    folder.mkdir(exist_ok=True)
    torch.save(torch.randn(1, 7, 24), folder / "text.pt")
    text = ["--text-embedding", folder / "text.pt", "--upscale", 2]
    return ["import-model", str(base), "-o", str(folder / "model"), *map(str, [*text, *more])]


def test_names_cover_every_module(base: OneStepModel) -> None:
    for names, module in ((unet_names(base.unet), base.unet), (vae_names(base.vae), base.vae)):
        modules = {key.rpartition(".")[0] for key in module.state_dict()}
        assert sorted(names.values()) == sorted(modules), "each once"


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_one_file_is_read_as_diffusers_reads_it(
    base: OneStepModel, small_model: Path, tmp_path: Path, suffix: str
) -> None:
    tensors = single_file(base.unet, base.vae)
    path = tmp_path / f"base{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 1}, path)
    else:
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    assert main(words(path, tmp_path, "--config", small_model)) == 0
    found = OneStepModel.load(tmp_path / "model")
    for first, second in ((found.unet, base.unet), (found.vae, base.vae)):
        expected = second.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in first.state_dict().items())


def test_our_own_configuration_reads_one_file(tmp_path: Path) -> None:
    """Stable Diffusion 2.1's, narrower: nothing that the reading of one file asks for may be left to a default."""
    import diffusers

    widths = {"block_out_channels": [32, 64, 64, 64]}
    changes = {"unet": {**widths, "attention_head_dim": [1, 2, 2, 2], "cross_attention_dim": 24}, "vae": widths}
    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    parts = {}
    for name, kind in kinds.items():
        config = {**read_json(SD21 / name / "config.json"), **changes[name]}
        (tmp_path / "config" / name).mkdir(parents=True)
        (tmp_path / "config" / name / "config.json").write_text(json.dumps(config))
        parts[name] = kind.from_config(config)
    shutil.copytree(SD21 / "scheduler", tmp_path / "config" / "scheduler")
    torch.save({"state_dict": single_file(parts["unet"], parts["vae"])}, tmp_path / "base.ckpt")
    assert main(words(tmp_path / "base.ckpt", tmp_path, "--config", tmp_path / "config")) == 0
    found = OneStepModel.load(tmp_path / "model")
    for first, second in ((found.unet, parts["unet"]), (found.vae, parts["vae"])):
        expected = second.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("layout", ["osediff", "passionsr"])
def test_a_lora_is_merged(base: OneStepModel, small_model: Path, tmp_path: Path, layout: str) -> None:
    weights = base.unet.state_dict()
    tensors = lora(weights, ADAPTED)
    vae_tensors = lora(base.vae.state_dict(), {"encoder.down_blocks.0.resnets.0.conv1": "default_encoder"})
    given = dict(tensors)
    if layout == "passionsr":  # the same layers by their original names
        old = {new: path for path, new in unet_names(base.unet).items()}
        given = {
            old[key.partition(".lora_")[0]] + ".lora_" + key.partition(".lora_")[2]: value
            for key, value in tensors.items()
        }
    given["conv_in.base_layer.weight"] = torch.randn_like(weights["conv_in.weight"])
    keys = ("state_dict_unet", "state_dict_vae") if layout == "osediff" else ("unet_state_dict", "vae_state_dict")
    checkpoint = {keys[0]: given, keys[1]: vae_tensors, "rank_unet": RANK, "rank_vae": RANK}
    checkpoint["unet_lora_encoder_modules"] = list(ADAPTED)
    torch.save(checkpoint, tmp_path / "osediff.pkl")
    assert main(words(small_model, tmp_path, "--lora", tmp_path / "osediff.pkl")) == 0
    found = OneStepModel.load(tmp_path / "model").unet.state_dict()
    for name, adapter in ADAPTED.items():
        before = given["conv_in.base_layer.weight"] if name == "conv_in" else weights[f"{name}.weight"]
        down, up = (tensors[f"{name}.lora_{end}.{adapter}.weight"] for end in "AB")
        x = torch.randn(2, *before.shape[1:2], *([8, 8] if before.dim() == 4 else []))
        if before.dim() == 4:
            apply = lambda x, w: torch.nn.functional.conv2d(x, w, padding=w.shape[-1] // 2)  # noqa: E731
        else:
            apply = torch.nn.functional.linear
        expected = apply(x, before) + LORA_ALPHA / RANK * apply(apply(x, down), up)
        torch.testing.assert_close(apply(x, found[f"{name}.weight"]), expected, rtol=1e-4, atol=1e-4)
    changed = {key for key, value in found.items() if not torch.equal(value, weights[key])}
    assert changed == {f"{name}.weight" for name in ADAPTED}


def merged_by_peft(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, factor: float) -> torch.Tensor:
    """As PEFT's get_delta_weight computes it: a matrix product, or one convolution of A's kernels by B's."""
    if weight.dim() == 2:
        return weight + (up @ down) * factor
    if weight.shape[2:] == (1, 1):
        return weight + (up[:, :, 0, 0] @ down[:, :, 0, 0])[:, :, None, None] * factor
    change = torch.nn.functional.conv2d(down.permute(1, 0, 2, 3), up)
    return weight + change.permute(1, 0, 2, 3) * factor


HYPIR_ENDS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out", "proj_in",
    "proj_out", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip


def test_pisa_sr_is_two_loras_at_their_default_weights(
    base: OneStepModel, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = base.unet.state_dict()
    sets = {}
    for name, rank in (("pix", 4), ("sem", 8)):
        adapted = {path: f"{adapter}_{name}" for path, adapter in ADAPTED.items()}
        sets[name] = lora(weights, adapted, rank)
    checkpoint = {"state_dict_unet": {**sets["pix"], **sets["sem"]}}
    for name, rank in (("pix", 4), ("sem", 8)):
        checkpoint[f"lora_rank_unet_{name}"] = rank  # type: ignore[assignment]
        checkpoint |= {f"unet_lora_{place}_modules_{name}": [] for place in ("encoder", "decoder", "others")}
    torch.save(checkpoint, tmp_path / "pisa_sr.pkl")
    assert main(words(small_model, tmp_path, "--lora", tmp_path / "pisa_sr.pkl")) == 0
    assert "pisa-sr LoRA merged" in capsys.readouterr().out
    found = OneStepModel.load(tmp_path / "model")
    assert (found.one_step.timestep, found.one_step.prediction) == (1, "residual")
    assert found.one_step.posterior == "sample"
    for path, adapter in ADAPTED.items():
        expected = weights[f"{path}.weight"]
        for name, rank in (("pix", 4), ("sem", 8)):
            pair = (sets[name][f"{path}.lora_{end}.{adapter}_{name}.weight"] for end in "AB")
            expected = merged_by_peft(expected, *pair, factor=8 / rank)
        torch.testing.assert_close(found.unet.state_dict()[f"{path}.weight"], expected, rtol=1e-6, atol=1e-6)
    checkpoint["lora_rank_unet_sem"] = 4  # type: ignore[assignment]
    torch.save(checkpoint, tmp_path / "other.pkl")
    assert main(words(small_model, tmp_path / "again", "--lora", tmp_path / "other.pkl")) == 1
    assert "expected rank 4" in capsys.readouterr().err


def test_hypir_is_a_plain_state_dict_at_factor_one(base: OneStepModel, small_model: Path, tmp_path: Path) -> None:
    weights = base.unet.state_dict()
    paths = [key.removesuffix(".weight") for key in weights if key.endswith(".weight")]
    adapted = {path: "default" for path in paths if path.endswith(tuple(f".{end}" for end in HYPIR_ENDS))}
    tensors = lora(weights, adapted, 16)
    torch.save(tensors, tmp_path / "HYPIR_sd2.pth")
    assert main(words(small_model, tmp_path, "--lora", tmp_path / "HYPIR_sd2.pth")) == 0
    found = OneStepModel.load(tmp_path / "model")
    assert (found.one_step.timestep, found.one_step.prediction) == (200, "epsilon")
    assert found.one_step.posterior == "sample"
    merged = found.unet.state_dict()
    for path in adapted:
        pair = (tensors[f"{path}.lora_{end}.default.weight"] for end in "AB")
        expected = merged_by_peft(weights[f"{path}.weight"], *pair, factor=1.0)
        torch.testing.assert_close(merged[f"{path}.weight"], expected, rtol=1e-6, atol=1e-6)
    changed = {
        key.removesuffix(".weight") for key, value in merged.items() if not torch.equal(value, weights[key])
    }
    assert changed == set(adapted)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run by a pickle",)


def test_what_does_not_fit_is_refused_and_leaves_nothing(
    base: OneStepModel, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = lora(base.unet.state_dict(), {"mid_block.attentions.0.proj_in": "default_others"})
    (name, *_rest) = tensors
    foreign = {key.replace("mid_block", "other_block"): value for key, value in tensors.items()}
    wide = {key: torch.cat([value, value], int("lora_A" in key)) for key, value in tensors.items()}
    files: dict[str, tuple[Any, str]] = {
        "evil.pkl": (Evil(), "holds more than tensors"),
        "none.pkl": ({"other": 1}, "no LoRA of a UNet"),
        "empty.pkl": ({"state_dict_unet": {}}, "holds no LoRA"),
        "half.pkl": ({"state_dict_unet": {name: tensors[name]}}, "no matching lora_B"),
        "rank.pkl": ({"state_dict_unet": tensors, "rank_unet": 2}, "expected rank 2"),
        "foreign.pkl": ({"state_dict_unet": foreign}, "changes 'other_block"),
        "wide.pkl": ({"state_dict_unet": wide}, "expected [64, 64]"),
    }
    for file, (content, message) in files.items():
        path = tmp_path / file
        if file == "evil.pkl":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path)
        assert main(words(small_model, tmp_path, "--lora", path)) == 1, file
        captured = capsys.readouterr()
        assert message in captured.err and "run by a pickle" not in captured.out, captured.err
    torch.save({"a": torch.zeros(1)}, tmp_path / "tiny.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 cut off")
    for file, message in (("tiny.ckpt", "does not fit"), ("cut.ckpt", "cut.ckpt: "), ("none.ckpt", "not there")):
        assert main(words(tmp_path / file, tmp_path)) == 1
        assert message in capsys.readouterr().err
    other = shutil.copytree(small_model, tmp_path / "other")
    config = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps({**config, "act_fn": "gelu"}))
    assert main(words(other, tmp_path)) == 1
    assert "act_fn is 'gelu'; expected 'silu'" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("x")
    assert main(words(small_model, tmp_path)) == 1
    assert "holds other files" in capsys.readouterr().err
