"""The constant prompt's embedding, by the text encoder and the tokenizer of a diffusers folder (CLIP).

Weights are read from safetensors alone, nothing is fetched, and no code of the folder runs.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.common.extras import extra_of, install_hint
from passionsr_trt.export.families.weights import is_plain, read_json
from torch import Tensor

ENCODER, TOKENIZER = "text_encoder", "tokenizer"
WEIGHTS = "model.safetensors"
KIND = "clip_text_model"
OTHER_WAY = "--text-embedding names a file with it"


def check_encoder(base: Path) -> None:
    """UserError where `embedded` cannot work with this base: said before the work."""
    folder = base / ENCODER
    if base.is_file():
        raise UserError(
            f"{base}: one file, whose text encoder is not read",
            f"expected the prompt's embedding: {OTHER_WAY}",
            f"or give a diffusers folder with {ENCODER}/ and {TOKENIZER}/",
        )
    for path in (folder / "config.json", folder / WEIGHTS, base / TOKENIZER):
        if not path.exists():
            raise UserError(
                f"the prompt's embedding cannot be computed: {path} is missing",
                f"expected {ENCODER}/ (with {WEIGHTS}) and {TOKENIZER}/ in the base's folder",
                f"or {OTHER_WAY}",
            )
    if (kind := read_json(folder / "config.json").get("model_type")) != KIND:
        raise UserError(f"{folder}: a text encoder of kind {kind!r}", f"expected {KIND}", f"or {OTHER_WAY}")
    check_library()


def check_library() -> None:
    """UserError where transformers is missing."""
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "the prompt's embedding cannot be computed: transformers is not installed",
            f"expected it ({install_hint(extra_of('transformers'))})",
            f"or {OTHER_WAY}",
        ) from None


def embedded(base: Path, prompt: str) -> Tensor:
    """[1, tokens, width] float32 of a prompt, filled up to the encoder's length as Stable Diffusion does.

    UserError where the two folders do not hold what CLIP needs.
    """
    check_encoder(base)
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            tokenizer = CLIPTokenizer.from_pretrained(base / TOKENIZER, local_files_only=True)
            encoder, report = CLIPTextModel.from_pretrained(
                base / ENCODER,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            if lacking := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
                raise ValueError(f"{lacking[0]} is missing or misshapen")  # it would be drawn at random
            encoder.eval()
            length = encoder.config.max_position_embeddings
            words = tokenizer(
                prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            found: Tensor = encoder(words.input_ids)[0]
    except Exception as error:  # transformers raises whatever the first wrong file leads to
        raise UserError(
            f"{base}: its text encoder cannot be run ({reason_of(error)})", "expected CLIP's", f"or {OTHER_WAY}"
        ) from None
    if not is_plain(found):
        raise UserError(
            f"{base / ENCODER}: gives what is no number", "expected trained weights", f"or {OTHER_WAY}"
        )
    return found.to(torch.float32).contiguous()
