"""Published weights → our model folder: a Stable Diffusion base with an OSEDiff-like LoRA merged into it.

| what                | read from                                                                          |
| ------------------- | ---------------------------------------------------------------------------------- |
| base                | a diffusers folder, or one .safetensors or .ckpt file in Stable Diffusion's layout |
| LoRA (`osediff.pkl`, PassionSR's `osediff.ckpt`) | PEFT keys in `state_dict_unet`, `state_dict_vae` (or       |
|                     | `unet_state_dict`, `vae_state_dict`), `rank_unet`, `rank_vae`                      |
| text embedding      | one tensor [1, tokens, width] in a .pt or .safetensors file                        |

W += α/r · B·A with PEFT's default α = 8 (a convolution's B is 1×1), and a whole `conv_in` where there is one.
Pickles are read with `weights_only=True`: tensors, numbers, strings and lists of them, nothing that runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.export.families.stable_diffusion.folder import WEIGHTS, load_unet, load_vae
from passionsr_trt.export.families.weights import read_checkpoint, read_json
from safetensors.torch import save_file
from torch import Tensor

SD21 = Path(__file__).with_name("sd21")  # Stable Diffusion 2.1's configs
LORA_ALPHA = 8  # PEFT's LoraConfig default, which OSEDiff keeps
_LORA = re.compile(r"(?:base_model\.model\.)?(?P<path>.+)\.lora_A\.[^.]+\.weight")
_WHOLE = re.compile(r"(?:base_model\.model\.)?(?P<path>conv_in)(?:\.base_layer)?\.(?P<kind>weight|bias)")
Paths = Callable[[str, Any], str]


def read_text_embedding(path: Path) -> Tensor:
    """[1, tokens, width] float32: the file's one tensor."""
    found = read_checkpoint(path)
    if isinstance(found, dict):
        tensors = [value for value in found.values() if isinstance(value, Tensor)]
        found = tensors[0] if len(tensors) == 1 else None
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[0] != 1 or not _is_plain(found):
        shape = list(found.shape) if isinstance(found, Tensor) else "several or no tensors"
        raise UserError(f"{path}: {shape}", "expected one tensor [1, tokens, width]")
    return found.to(torch.float32).contiguous()


def _is_plain(tensor: Tensor) -> bool:
    """Numbers that a weight may be: there, real, finite, not none at all."""
    stored = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
    return stored and tensor.numel() > 0 and bool(torch.isfinite(tensor).all())


def load_base(base: Path, config: Path) -> tuple[Any, Any]:
    """The UNet and the AutoencoderKL of a diffusers folder, or of one file with the configs of `config`."""
    if base.is_dir():
        kind, vae, _channels = load_vae(base / "vae")
        if kind != "AutoencoderKL":
            raise UserError(f"{base}: its VAE is {kind}", "expected AutoencoderKL")
        return load_unet(base / "unet"), vae
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of an empty list of exceptions to float32
    state = read_checkpoint(base)
    if not isinstance(state, dict):
        raise UserError(f"{base}: no state dict", "expected Stable Diffusion's weights by name")
    state = state.get("state_dict", state)
    loaded = []
    kinds: dict[str, Any] = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    for name, kind in kinds.items():
        try:
            module = kind.from_single_file(
                dict(state), config=str(config), subfolder=name, local_files_only=True, torch_dtype=torch.float32
            )
        except Exception as error:  # diffusers raises whatever the first wrong key leads to
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{base}: its {name} does not fit {config} ({reason})",
                "expected Stable Diffusion 2.1's layout, or --config for another",
            ) from None
        loaded.append(module.eval().requires_grad_(False))
    return loaded[0], loaded[1]


def merge_lora(module: Any, tensors: dict[str, Tensor], rank: int | None, rename: Paths, source: str) -> int:
    """Add a LoRA to the weights of `module`, in place; returns how many weights it changed.

    tensors: the LoRA's state dict; rank: what the file says it is; rename: (the LoRA's path, the module's
    config) → the module's path.
    """
    state: dict[str, Tensor] = module.state_dict()
    for key, tensor in tensors.items():
        whole = _WHOLE.fullmatch(key)
        if whole is not None:
            _target(state, f"{rename(whole['path'], module.config)}.{whole['kind']}", tensor.shape, source).copy_(
                tensor
            )
    merged = 0
    for key, down in tensors.items():
        found = _LORA.fullmatch(key)
        if found is None:
            continue
        up = tensors.get(key.replace(".lora_A.", ".lora_B."))
        if up is None or up.shape[1] != down.shape[0] or rank not in (None, down.shape[0]):
            raise UserError(f"{source}: {key} has no matching lora_B", f"expected rank {rank or down.shape[0]}")
        shape = (up.shape[0], *down.shape[1:])
        change = (up.double().flatten(1) @ down.double().flatten(1)).reshape(shape) * (LORA_ALPHA / down.shape[0])
        weight = _target(state, f"{rename(found['path'], module.config)}.weight", change.shape, source)
        weight.copy_((weight.double() + change).to(weight.dtype))
        merged += 1
    if not merged:
        raise UserError(f"{source}: holds no LoRA", "expected keys with lora_A and lora_B")
    return merged


def _target(state: dict[str, Tensor], name: str, shape: torch.Size | tuple[int, ...], source: str) -> Tensor:
    if name not in state:
        raise UserError(f"{source}: changes {name!r}", "expected a weight of the base model")
    if state[name].shape != shape:
        raise UserError(
            f"{source}: {name} has shape {list(shape)}", f"expected {list(state[name].shape)} as in the base model"
        )
    return state[name]


def lora_parts(checkpoint: Any, source: str) -> dict[str, tuple[dict[str, Tensor], int | None]]:
    """`unet` and `vae` → the LoRA's tensors and rank."""
    found = {}
    for name in ("unet", "vae"):
        for key in (f"state_dict_{name}", f"{name}_state_dict"):
            if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
                found[name] = (checkpoint[key], checkpoint.get(f"rank_{name}"))
    for tensors, rank in found.values():
        plain = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items())
        if not plain or not isinstance(rank, int | None):
            raise UserError(f"{source}: a LoRA that is no state dict of tensors", "expected osediff.pkl's layout")
        if wrong := [key for key, value in tensors.items() if not _is_plain(value) or value.dim() < 1]:
            raise UserError(f"{source}: {wrong[0]} is no plain tensor of numbers", "expected a whole LoRA")
    if "unet" not in found:
        raise UserError(f"{source}: no LoRA of a UNet in it", "expected state_dict_unet, as in osediff.pkl")
    return found


def write_model(folder: Path, unet: Any, vae: Any, scheduler: Path, text: Tensor, step: dict[str, Any]) -> None:
    """A model folder (its layout: model.py). scheduler: a folder with its config; step: one_step.json's keys."""
    for name, module in (("unet", unet), ("vae", vae)):
        (folder / name).mkdir(parents=True)
        module.save_config(folder / name)
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, folder / name / WEIGHTS)
    (folder / "scheduler").mkdir()
    config = json.dumps(read_json(scheduler / "scheduler_config.json"), indent=1)
    (folder / "scheduler" / "scheduler_config.json").write_text(config, encoding="utf-8")
    save_file({"text_embedding": text}, folder / "text_embedding.safetensors")
    (folder / "one_step.json").write_text(json.dumps(step, indent=1), encoding="utf-8")
