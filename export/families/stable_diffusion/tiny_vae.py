"""The TAESD family (plain conv + ReLU blocks), read from its sequential layout.

    encoder: conv 3→C, Block, then three times (stride-2 conv, Blocks), conv C→latent
    decoder: tanh(x/3)·3, conv latent→C, ReLU, Blocks, three times (nearest ×2, conv, Blocks), conv C→3
    Block:   relu(conv-relu-conv-relu-conv(x) + skip(x)); with mid-block norm, first x += pool(x),
             pool = conv1×1 → GroupNorm(4) → ReLU → conv1×1

A nearest ×2 and the convolution behind it are one layer here, in sub-pixel form (export/model/sub_pixel.py).
A layer's kind is read from its keys, so AutoencoderTiny and taef2 are one code. In the decoder an index
without weights is the clamp (first), the ReLU after the first conv, or an upsampling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.model.sub_pixel import Nearest2x, in_sub_pixel_form
from torch import Tensor, nn

StateDict = dict[str, Tensor]


def _conv(state: StateDict, key: str, stride: int = 1) -> SiteConv:
    weight = state.pop(f"{key}.weight")
    return SiteConv(weight, state.pop(f"{key}.bias", None), stride, weight.shape[2] // 2)


class Pool(nn.Module):
    """conv1×1 → GroupNorm(4) → ReLU → conv1×1: the mid-block's global statistics."""

    def __init__(self, state: StateDict, key: str) -> None:
        super().__init__()
        self.conv_in, self.conv_out = _conv(state, f"{key}.0"), _conv(state, f"{key}.3")
        gamma, beta = state.pop(f"{key}.1.weight"), state.pop(f"{key}.1.bias")
        self.norm = nn.GroupNorm(4, gamma.shape[0])
        self.norm.load_state_dict({"weight": gamma, "bias": beta})

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(F.relu(self.norm(self.conv_in(x))))


class TinyBlock(nn.Module):
    """relu(conv-relu-conv-relu-conv(x) + skip(x)); [B, C, H, W] in and out."""

    def __init__(self, state: StateDict, key: str) -> None:
        super().__init__()
        self.pool = Pool(state, f"{key}.pool") if f"{key}.pool.0.weight" in state else None
        self.conv = nn.ModuleList(_conv(state, f"{key}.conv.{index}") for index in (0, 2, 4))
        self.skip = _conv(state, f"{key}.skip") if f"{key}.skip.weight" in state else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        hidden = F.relu(self.conv[0](x))
        hidden = self.conv[2](F.relu(self.conv[1](hidden)))
        return F.relu(hidden + (x if self.skip is None else self.skip(x)))


def _layers(state: StateDict, source: str, decoder: bool) -> nn.ModuleDict:
    """Build the sequence; keys of the result are the checkpoint's own indices."""
    state = dict(state)
    indices = sorted({int(key.split(".", 1)[0]) for key in state})
    if not indices:
        raise UserError(f"{source}: no weights", "expected the TAESD family's sequential layout")
    layers = nn.ModuleDict()
    try:
        for index in range(indices[0], indices[-1] + 1):
            key = str(index)
            if f"{key}.conv.0.weight" in state:
                layers[key] = TinyBlock(state, key)
            elif f"{key}.weight" in state:
                # encoder: every bare conv between the first and the last halves the resolution
                halves = not decoder and index not in (indices[0], indices[-1])
                layers[key] = _conv(state, key, 2 if halves else 1)
            elif decoder and index == indices[0] + 1:
                layers[key] = nn.ReLU()
            else:
                layers[key] = Nearest2x()
    except KeyError as error:
        raise UserError(f"{source}: missing {error.args[0]}", "expected the TAESD family's layout") from None
    if state:
        raise UserError(f"{source}: unknown key {sorted(state)[0]!r}", "expected the TAESD family's layout")
    return in_sub_pixel_form(layers)


class TinyEncoder(nn.Module):
    """image [B,3,H,W] in [-1,1] → z [B,C,H/8,W/8]; the scaling factor is folded into the last conv.

    The map of [-1,1] onto the [0,1] the family was trained on stays explicit: the first conv's zero
    padding would otherwise stand for another grey.
    """

    def __init__(self, state: StateDict, scaling_factor: float, source: str) -> None:
        super().__init__()
        self.layers = _layers(state, source, decoder=False)
        last = self.layers[list(self.layers)[-1]]
        assert isinstance(last, SiteConv)
        last.scale_output(scaling_factor)

    def forward(self, image: Tensor) -> Tensor:
        x = image * 0.5 + 0.5
        for layer in self.layers.values():
            x = layer(x)
        return x


class TinyDecoder(nn.Module):
    """x0 [B,C,h,w], scaled → image [B,3,8h,8w] in about [-1,1]. tanh(x/(3·sf))·3, then the layers."""

    def __init__(self, state: StateDict, scaling_factor: float, source: str) -> None:
        super().__init__()
        self.layers = _layers(state, source, decoder=True)
        self.clamp_gain = 1.0 / (3.0 * scaling_factor)
        last = self.layers[list(self.layers)[-1]]
        assert isinstance(last, SiteConv)
        last.scale_output(2.0, -1.0)  # [0,1] onto [-1,1]

    def forward(self, latent: Tensor) -> Tensor:
        x = torch.tanh(latent * self.clamp_gain) * 3.0
        for layer in self.layers.values():
            x = layer(x)
        return x
