"""Which files of a repository in diffusers layout are read: no pickles, the text encoder where it is needed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from passionsr_trt.engines.common.errors import UserError

NEEDED = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)
ENCODER = ("text_encoder/config.json", "text_encoder/model.safetensors")
TEXT = re.compile(r"text_encoder/(config\.json|model\.safetensors)|tokenizer/[\w.-]+\.(json|txt)")
OWN = "text_embedding.safetensors"  # of a model folder that `import-model` wrote
SINGLE = (".safetensors", ".ckpt")


def files_of(names: Sequence[str], embedding: bool, prompt: str | None) -> list[str]:
    """embedding: the prompt's is given. UserError where weights are not there as safetensors."""
    if missing := [name for name in NEEDED if name not in names]:
        single = [name for name in names if "/" not in name and name.lower().endswith(SINGLE) and name != OWN]
        way = f"--file NAME takes one of {', '.join(single[:8])}" if single else "give another repository"
        raise UserError(f"holds no {missing[0]}", "expected a diffusers folder with safetensors", way)
    if embedding:
        return [*NEEDED]
    if prompt is None and OWN in names:
        return [*NEEDED, OWN]
    if missing := [name for name in ENCODER if name not in names]:
        raise UserError(
            f"holds no {missing[0]} to embed the prompt with",
            "expected a text encoder as safetensors",
            "or --text-embedding names a file with the embedding",
        )
    return [*NEEDED, *(name for name in names if TEXT.fullmatch(name))]
