"""LoRA files of published one-step models: recognised by their layout, merged into the base model's weights.

| recipe    | the file's layout                                            | α    | t   | prediction | posterior |
| --------- | ------------------------------------------------------------ | ---- | --- | ---------- | --------- |
| `osediff` | `state_dict_unet`, `state_dict_vae`, `rank_unet`, `rank_vae` | 8    | 999 | epsilon    | mode      |
| `pisa-sr` | `state_dict_unet` of adapters `…_pix` and `…_sem`, their     | 8    | 1   | residual   | sample    |
|           | ranks `lora_rank_unet_pix` and `lora_rank_unet_sem`          |      |     |            |           |
| `hypir`   | the PEFT state dict itself                                   | rank | 200 | epsilon    | sample    |

PassionSR's file is OSEDiff's with `unet_state_dict`, `vae_state_dict`.
W += α/r · B·A of every adapter (a convolution's B is 1×1), and a whole `conv_in` where there is one. PiSA-SR's two
adapters are merged at λ = (1, 1), its default; its other λ mix the outputs of two UNets, which one graph has not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.weights import is_plain
from torch import Tensor

LORA_ALPHA = 8  # PEFT's LoraConfig default, which OSEDiff and PiSA-SR keep
PISA_RANK = "lora_rank_unet_"
_LORA = re.compile(r"(?:base_model\.model\.|module\.)?(?P<path>.+)\.lora_A\.[^.]+\.weight")
_WHOLE = re.compile(r"(?:base_model\.model\.|module\.)?(?P<path>conv_in)(?:\.base_layer)?\.(?P<kind>weight|bias)")
Paths = Callable[[str, Any], str]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What a published model runs with, beside its weights."""

    name: str
    timestep: int
    prediction: str
    posterior: str


OSEDIFF = Recipe("osediff", 999, "epsilon", "mode")
PISA_SR = Recipe("pisa-sr", 1, "residual", "sample")
HYPIR = Recipe("hypir", 200, "epsilon", "sample")


@dataclass(frozen=True)
class Lora:
    """One set of adapters. part: `unet` or `vae`; rank: what the file says it is; alpha: None for the rank."""

    part: str
    tensors: Tensors
    rank: int | None
    alpha: float | None = LORA_ALPHA


def read_loras(checkpoint: Any, source: str) -> tuple[Recipe, list[Lora]]:
    """The recipe that a file's layout tells, and its sets of adapters; UserError for any other file."""
    recipe, loras = _sets(checkpoint if isinstance(checkpoint, dict) else {})
    for lora in loras:
        plain = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in lora.tensors.items())
        if not plain or not isinstance(lora.rank, int | None):
            raise UserError(f"{source}: a LoRA that is no state dict of tensors", "expected osediff.pkl's layout")
        if wrong := [key for key, value in lora.tensors.items() if not is_plain(value) or value.dim() < 1]:
            raise UserError(f"{source}: {wrong[0]} is no plain tensor of numbers", "expected a whole LoRA")
    if not any(lora.part == "unet" for lora in loras):
        raise UserError(f"{source}: no LoRA of a UNet in it", "expected state_dict_unet, as in osediff.pkl")
    return recipe, loras


def _sets(checkpoint: dict[Any, Any]) -> tuple[Recipe, list[Lora]]:
    if all(isinstance(key, str) for key in checkpoint) and any(_LORA.fullmatch(key) for key in checkpoint):
        return HYPIR, [Lora("unet", checkpoint, None, None)]
    found = {}
    for name in ("unet", "vae"):
        for key in (f"state_dict_{name}", f"{name}_state_dict"):
            if isinstance(checkpoint.get(key), dict):
                found[name] = checkpoint[key]
    if f"{PISA_RANK}pix" in checkpoint and "unet" in found:
        own = {name: {} for name in ("pix", "sem")}  # type: dict[str, Tensors]
        for key, tensor in found["unet"].items():
            own["sem" if isinstance(key, str) and "_sem." in key else "pix"][key] = tensor
        return PISA_SR, [Lora("unet", own[name], checkpoint.get(f"{PISA_RANK}{name}")) for name in own]
    return OSEDIFF, [Lora(name, tensors, checkpoint.get(f"rank_{name}")) for name, tensors in found.items()]


def merge_lora(module: Any, lora: Lora, rename: Paths, source: str) -> int:
    """Add a set of adapters to the weights of `module`, in place; returns how many weights it changed.

    rename: (the LoRA's path, the module's config) → the module's path.
    """
    state: Tensors = module.state_dict()
    for key, tensor in lora.tensors.items():
        whole = _WHOLE.fullmatch(key)
        if whole is not None:
            name = f"{rename(whole['path'], module.config)}.{whole['kind']}"
            _target(state, name, tensor.shape, source).copy_(tensor)
    merged = 0
    for key, down in lora.tensors.items():
        found = _LORA.fullmatch(key)
        if found is None:
            continue
        up, rank = lora.tensors.get(key.replace(".lora_A.", ".lora_B.")), down.shape[0]
        if up is None or up.shape[1] != rank or lora.rank not in (None, rank):
            raise UserError(f"{source}: {key} has no matching lora_B", f"expected rank {lora.rank or rank}")
        shape, factor = (up.shape[0], *down.shape[1:]), 1.0 if lora.alpha is None else lora.alpha / rank
        change = (up.double().flatten(1) @ down.double().flatten(1)).reshape(shape) * factor
        weight = _target(state, f"{rename(found['path'], module.config)}.weight", change.shape, source)
        weight.copy_((weight.double() + change).to(weight.dtype))
        merged += 1
    if not merged:
        raise UserError(f"{source}: holds no LoRA", "expected keys with lora_A and lora_B")
    return merged


def _target(state: Tensors, name: str, shape: torch.Size | tuple[int, ...], source: str) -> Tensor:
    if name not in state:
        raise UserError(f"{source}: changes {name!r}", "expected a weight of the base model")
    if state[name].shape != shape:
        raise UserError(
            f"{source}: {name} has shape {list(shape)}", f"expected {list(state[name].shape)} as in the base model"
        )
    return state[name]
