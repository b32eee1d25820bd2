"""Published weights → our model folder: a Stable Diffusion base, into which a LoRA is merged (lora.py).

| what                | read from                                                                          |
| ------------------- | ---------------------------------------------------------------------------------- |
| base                | a diffusers folder, or one .safetensors or .ckpt file in Stable Diffusion's layout |
| text embedding      | one tensor [1, tokens, width] in a .pt or .safetensors file                        |

Pickles are read with `weights_only=True`: tensors, numbers, strings and lists of them, nothing that runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.stable_diffusion.folder import WEIGHTS, load_unet, load_vae
from passionsr_trt.export.families.weights import is_plain, read_checkpoint, read_json
from safetensors.torch import save_file
from torch import Tensor

SD21 = Path(__file__).with_name("sd21")  # Stable Diffusion 2.1's configs


def read_text_embedding(path: Path) -> Tensor:
    """[1, tokens, width] float32: the file's one tensor."""
    found = read_checkpoint(path)
    if isinstance(found, dict):
        tensors = [value for value in found.values() if isinstance(value, Tensor)]
        found = tensors[0] if len(tensors) == 1 else None
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[0] != 1 or not is_plain(found):
        shape = list(found.shape) if isinstance(found, Tensor) else "several or no tensors"
        raise UserError(f"{path}: {shape}", "expected one tensor [1, tokens, width]")
    return found.to(torch.float32).contiguous()


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
