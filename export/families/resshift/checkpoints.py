"""Published files → the float reference: keys, sizes, and what is refused. All sizes are read from the weights.

| file                    | names                                                                             |
| ----------------------- | --------------------------------------------------------------------------------- |
| UNet                    | UNetModelSwin's (reference.py)                                                    |
| autoencoder             | ldm's VQModel: encoder.down.0.block.0.conv1, quantize.embedding, post_quant_conv  |

Around them `state_dict`, `ema`, `params_ema` and such, and prefixes like `module.`, are taken off.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.export.families import states
from passionsr_trt.export.families.ldm_names import IN_VAE_ATTENTION, vae_path
from passionsr_trt.export.families.resshift.reference import UNetModelSwin
from passionsr_trt.export.families.weights import load_checked
from torch import Tensor

NEEDED = {
    "unet": (
        "input_blocks.0.0.weight",
        "time_embed.0.weight",
        "out.2.weight",
    ),
    "autoencoder": ("encoder.conv_in.weight", "decoder.conv_in.weight", "quantize.embedding.weight"),
}
EXPECTED = {
    "unet": "ResShift's UNet (SinSR_v2.pth)",
    "autoencoder": "a VQ autoencoder (autoencoder_vq_f4.pth)",
}
INDEX = "relative_position_index"
IGNORED = ("loss.",)  # what trainers keep beside an autoencoder
State = dict[str, Tensor]


def read_state(path: Path, kind: str) -> State:
    """The weights of a `unet` or an `autoencoder`, float32; UserError in one line for any other file."""
    return states.read_state(
        path, NEEDED[kind], EXPECTED[kind], ignored=IGNORED, is_whole=lambda name: name.endswith(INDEX)
    )


def unet_of(state: State, source: Path) -> UNetModelSwin:
    """The UNet of a state dict, every weight checked."""
    try:
        with torch.device("meta"):
            unet = UNetModelSwin({key: tensor.to("meta") for key, tensor in state.items()})
    except Exception as error:  # shapes that make no layer: whatever the first one leads to
        raise UserError(f"{source}: no UNetModelSwin ({reason_of(error)})", "expected whole weights") from None
    load_checked(unet, state, source)
    if unet.inputs != unet.outputs + unet.features:
        raise UserError(
            f"{source}: takes {unet.inputs} channels and gives {unet.outputs}",
            f"expected {unet.features} more: the latent's and the LR picture's",
        )
    if not any(key.endswith("attn_mask") for key in state):
        raise UserError(f"{source}: no attn_mask in it", "expected the buffers of the released files")
    return unet


def autoencoder_of(state: State, source: Path) -> Any:
    """diffusers' VQModel of a state dict in ldm's names, every weight checked."""
    from diffusers import VQModel

    try:
        channels = _widths(state)
        blocks = {int(found[1]) for key in state if (found := re.match(r"encoder\.down\.0\.block\.(\d+)\.", key))}
        codes, width = state["quantize.embedding.weight"].shape
        with torch.device("meta"):
            vae: Any = VQModel(
                block_out_channels=tuple(channels),
                down_block_types=("DownEncoderBlock2D",) * len(channels),
                up_block_types=("UpDecoderBlock2D",) * len(channels),
                layers_per_block=len(blocks),
                latent_channels=state["quant_conv.weight"].shape[1],
                num_vq_embeddings=codes,
                vq_embed_dim=width,
            )
    except Exception as error:  # shapes that make no layer: whatever the first one leads to
        raise UserError(f"{source}: no VQ autoencoder ({reason_of(error)})", "expected whole weights") from None
    config = SimpleNamespace(block_out_channels=channels)
    load_checked(vae, {_renamed(key, config): _as_linear(key, tensor) for key, tensor in state.items()}, source)
    return vae


def _widths(state: State) -> list[int]:
    """Channels of every level, from the first on."""
    keys = {int(found[1]) for key in state if (found := re.match(r"encoder\.down\.(\d+)\.block\.0\.conv1", key))}
    return [state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in sorted(keys)]


def _renamed(key: str, config: Any) -> str:
    path, _dot, kind = key.rpartition(".")
    return f"{vae_path(path, config)}.{kind}"


def _as_linear(key: str, tensor: Tensor) -> Tensor:
    """diffusers' attention has linears where ldm's has 1×1 convolutions."""
    path = key.split(".")
    inside = len(path) > 2 and path[-3].startswith("attn_") and path[-2] in IN_VAE_ATTENTION
    return tensor.flatten(1) if inside and tensor.dim() == 4 else tensor
