"""A model's weights under Stable Diffusion's original names, from the names that our mapping takes."""

from __future__ import annotations

from typing import Any

from passionsr_trt.export.families.ldm_names import vae_path
from passionsr_trt.export.families.stable_diffusion.ldm_names import IN_RESNET, UNET_ENDS, unet_path
from torch import Tensor

IN_ATTENTION = (f"attn{index}.{end}" for index in (1, 2) for end in ("to_q", "to_k", "to_v", "to_out.0"))
IN_BLOCK = ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2", *IN_ATTENTION)
TRANSFORMER = ("norm", "proj_in", "proj_out", *(f"transformer_blocks.0.{name}" for name in IN_BLOCK))
VAE_RESNET = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")


def unet_names(unet: Any) -> dict[str, str]:
    """ldm path → diffusers' path, of every module that has weights."""
    modules = {key.rpartition(".")[0] for key in unet.state_dict()}
    tails = [f"0.{name}" for name in (*IN_RESNET, "op")] + [f"1.{name}" for name in (*TRANSFORMER, "conv")]
    paths = [
        f"{side}_blocks.{index}.{tail}" for side in ("input", "output") for index in range(12) for tail in tails
    ]
    paths += [f"output_blocks.{index}.2.conv" for index in range(12)]
    paths += [f"middle_block.{index}.{name}" for index in (0, 2) for name in IN_RESNET]
    paths += [f"middle_block.1.{name}" for name in TRANSFORMER] + list(UNET_ENDS)
    found = {path: unet_path(path, unet.config) for path in paths}
    found = {path: name for path, name in found.items() if name in modules}
    per_level = unet.config.layers_per_block + 1
    for path in list(found):  # a level ends with its sampler; an upsampler comes after the attention, if any
        if path.endswith((".op", ".conv")) and (int(path.split(".")[1]) + path.startswith("output")) % per_level:
            del found[path]
        elif path.endswith(".1.conv") and path.replace(".1.conv", ".1.proj_in") in found:
            del found[path]
        elif path.endswith(".2.conv") and path.replace(".2.conv", ".1.proj_in") not in found:
            del found[path]
    return found


def vae_names(vae: Any) -> dict[str, str]:
    """As unet_names, of an AutoencoderKL."""
    modules = {key.rpartition(".")[0] for key in vae.state_dict()}
    paths = ["quant_conv", "post_quant_conv"]
    for half, way, sample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        paths += [f"{half}.{name}" for name in ("conv_in", "norm_out", "conv_out")]
        paths += [f"{half}.mid.block_{index}.{name}" for index in (1, 2) for name in VAE_RESNET]
        paths += [f"{half}.mid.attn_1.{name}" for name in ("norm", "q", "k", "v", "proj_out")]
        paths += [
            f"{half}.{way}.{level}.block.{index}.{name}"
            for level in range(4)
            for index in range(4)
            for name in VAE_RESNET
        ]
        paths += [f"{half}.{way}.{level}.{sample}.conv" for level in range(4)]
    found = {path: vae_path(path, vae.config) for path in paths}
    return {path: name for path, name in found.items() if name in modules}


def single_file(unet: Any, vae: Any) -> dict[str, Tensor]:
    """Both as one checkpoint in ldm's layout."""
    result = {}
    for module, names, prefix in (
        (unet, unet_names(unet), "model.diffusion_model."),
        (vae, vae_names(vae), "first_stage_model."),
    ):
        state = module.state_dict()
        for old, new in names.items():
            for kind in ("weight", "bias"):
                if f"{new}.{kind}" in state:
                    value = state[f"{new}.{kind}"].clone()
                    is_linear_in_vae = "mid.attn_1" in old and kind == "weight" and value.dim() == 2
                    result[f"{prefix}{old}.{kind}"] = value[:, :, None, None] if is_linear_in_vae else value
    return result
