"""The constant prompt's embedding, computed by a diffusers folder's own text encoder, or asked for in one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.engines.common.extras import install_hint
from passionsr_trt.runtime.main import main
from safetensors.torch import load_file, save_file

TOKENS, WIDTH = 9, 24  # width: as the small model's cross attention takes


@pytest.fixture
def base(small_model: Path, tmp_path: Path) -> Path:
    """A diffusers folder: the small model without what `import-model` makes."""
    folder = shutil.copytree(small_model, tmp_path / "base")
    for name in ("one_step.json", "text_embedding.safetensors"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def encoder(base: Path) -> Any:
    """A tiny random text encoder of CLIP, written into the folder with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    letters = [*"abc", *(f"{letter}</w>" for letter in "abc"), "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    config = transformers.CLIPTextConfig(
        vocab_size=len(letters), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=TOKENS, bos_token_id=7, eos_token_id=8,
    )  # fmt: skip
    model = transformers.CLIPTextModel(config).eval()
    model.save_pretrained(base / "text_encoder")
    folder = base / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def words(base: Path, output: Path, *more: str) -> list[str]:
    return ["import-model", str(base), "-o", str(output), "--upscale", "2", *more]


def refusal(command: list[str], capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    assert main(command) == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(("prompt", "tokens"), [((), []), (("--prompt", "ab c"), [6, 5])])
def test_the_embedding_is_the_text_encoder_s_of_the_prompt(
    encoder: Any, base: Path, tmp_path: Path, prompt: tuple[str, ...], tokens: list[int]
) -> None:
    assert main(words(base, tmp_path / "model", *prompt)) == 0
    found = load_file(tmp_path / "model" / "text_embedding.safetensors")["text_embedding"]
    filled = torch.tensor([[7, *tokens, *[8] * (TOKENS - 1 - len(tokens))]])  # start, words, end to the length
    with torch.no_grad():
        expected = encoder(filled)[0]
    assert found.shape == (1, TOKENS, WIDTH)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_damaged_encoder_is_refused_and_not_filled_up_at_random(
    encoder: Any, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = base / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    del weights[next(key for key in weights if key.endswith("fc1.weight"))]
    save_file(weights, path, {"format": "pt"})
    line = refusal(words(base, tmp_path / "model"), capsys)
    assert "its text encoder cannot be run" in line and "fc1.weight is missing" in line
    assert not (tmp_path / "model").exists()


def stand_in(base: Path) -> Path:
    """The names of a text encoder and a tokenizer, nothing in them."""
    (base / "text_encoder").mkdir()
    (base / "tokenizer").mkdir()
    (base / "text_encoder" / "config.json").write_text('{"model_type": "clip_text_model"}')
    (base / "text_encoder" / "model.safetensors").touch()
    return base


def test_without_transformers_both_ways_out_are_named(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    line = refusal(words(stand_in(base), tmp_path / "model"), capsys)
    assert install_hint("prompt") in line and "or --text-embedding names a file" in line


def test_without_a_text_encoder_both_ways_out_are_named(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(words(base, tmp_path / "model"), capsys)
    assert "config.json is missing; expected text_encoder/" in line and "or --text-embedding names a file" in line
    (stand_in(base) / "text_encoder" / "config.json").write_text('{"model_type": "t5"}')
    line = refusal(words(base, tmp_path / "model"), capsys)
    assert "of kind 't5'; expected clip_text_model; or --text-embedding" in line
    torch.save(torch.zeros(1, 7, 24), tmp_path / "text.pt")
    both = ["--text-embedding", str(tmp_path / "text.pt"), "--prompt", "a"]
    assert "expected one of them" in refusal(words(base, tmp_path / "model", *both), capsys, status=2)


def test_a_model_folder_s_own_embedding_is_kept(small_model: Path, tmp_path: Path) -> None:
    assert main(words(small_model, tmp_path / "model")) == 0
    first, second = (
        load_file(folder / "text_embedding.safetensors") for folder in (small_model, tmp_path / "model")
    )
    assert torch.equal(first["text_embedding"], second["text_embedding"])
