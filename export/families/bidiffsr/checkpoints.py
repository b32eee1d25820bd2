"""A published file → the float reference: keys, sizes, and what is refused. Sizes are read from the weights."""

from __future__ import annotations

from pathlib import Path

import torch
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.export.families import states
from passionsr_trt.export.families.bidiffsr.reference import BINARY, BinaryUNet
from passionsr_trt.export.families.weights import load_checked
from torch import Tensor

NEEDED = ("downs.0.weight", "timestep_level_mlp.1.weight", "final_conv.block.3.weight")
EXPECTED = "BI-DiffSR's UNet (params of its training, or params_ema)"
State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """float32; UserError in one line for a file of anything else."""
    state = states.read_state(path, NEEDED, EXPECTED)
    if not any(key.endswith(BINARY) for key in state):
        raise UserError(f"{path}: no binary convolution in it", f"expected {EXPECTED}")
    return state


def unet_of(state: State, norm_groups: int, timesteps: int, source: Path) -> BinaryUNet:
    """The UNet of a state dict, every weight checked."""
    width = state["downs.0.weight"].shape[0]
    if width % norm_groups:
        raise UserError(f"{source}: {width} channels in {norm_groups} groups of norms", "expected a divisor")
    try:
        with torch.device("meta"):
            unet = BinaryUNet({key: x.to("meta") for key, x in state.items()}, norm_groups, timesteps)
    except Exception as error:  # shapes that make no layer: whatever the first one leads to
        raise UserError(f"{source}: no BIDiffSRUNet ({reason_of(error)})", "expected whole weights") from None
    load_checked(unet, state, source)
    if (unet.inputs, unet.outputs) != (6, 3):
        raise UserError(
            f"{source}: takes {unet.inputs} channels and gives {unet.outputs}",
            "expected 6 and 3: two pictures, one",
        )
    return unet
