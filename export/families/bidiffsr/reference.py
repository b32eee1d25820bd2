"""BIDiffSRUNet as BI-DiffSR's authors define it (NeurIPS 2024): the float reference, and what the deployable UNet
is folded from.

Kinds of layers, their order and their sizes are read from a checkpoint's keys and shapes:

| under a layer's path              | the layer                                                            |
| --------------------------------- | -------------------------------------------------------------------- |
| `weight`                          | Conv 3×3                                                             |
| `res_block.…`, perhaps `attn.…`   | ResBlock of two halves, attention over all positions                 |
| `biconv1.…`, `biconv2.…`          | in `downs` CP-Down, in `ups` CP-Up                                   |
| `biconv_1.…`, `biconv_2.…`        | CS-Fusion of what comes up and of the skip                           |
| `….binary_conv.weight` within     | the convolution is binary, else plain                                |

A binary convolution has a bias before its signs and an RPReLU behind it for each group of timesteps. Groups of
norms are not in the weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.states import State, below, conv_of, linear_of, listed
from passionsr_trt.export.model.signs import binarized
from torch import Tensor, nn

BINARY = "binary_conv.weight"


def time_encoding(timestep: int, width: int) -> Tensor:
    """[1, width]: sines, then cosines, of t·10000^(−i/(width/2))."""
    half = width // 2
    angles = timestep * torch.exp(-math.log(1e4) * torch.arange(half, dtype=torch.float32) / half)
    return torch.cat([angles.sin(), angles.cos()])[None]


class Bias(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class RPReLU(nn.Module):
    """PReLU between two biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pr_bias0, self.pr_prelu, self.pr_bias1 = Bias(channels), nn.PReLU(channels), Bias(channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pr_bias1(self.pr_prelu(self.pr_bias0(x)))
        return result


class BinaryConv(nn.Module):
    """x + RPReLU_g(conv(sign(x + move_g), mean|W|·sign(W))): zeros pad the signs. x [B, C, H, W] → the same."""

    def __init__(self, state: State) -> None:
        super().__init__()
        weight = state[BINARY]
        groups, channels = len({key.split(".")[1] for key in state if key.startswith("TaR.")}), weight.shape[0]
        self.TaR = nn.ModuleDict({f"dynamic_move_{group}": Bias(channels) for group in range(groups)})
        self.binary_conv = conv_of(weight, weight.shape[2] // 2, bias=False)
        self.TaA = nn.ModuleDict({f"dynamic_relu_{group}": RPReLU(channels) for group in range(groups)})

    def move(self, group: int) -> Bias:
        move = self.TaR[f"dynamic_move_{group}"]
        assert isinstance(move, Bias)
        return move

    def relu(self, group: int) -> RPReLU:
        relu = self.TaA[f"dynamic_relu_{group}"]
        assert isinstance(relu, RPReLU)
        return relu

    def forward(self, x: Tensor, group: int) -> Tensor:
        signs = torch.sign(self.move(group)(x))
        found = F.conv2d(signs, binarized(self.binary_conv.weight), padding=self.binary_conv.padding)
        result: Tensor = self.relu(group)(found) + x
        return result


def convolved(conv: nn.Module, x: Tensor, group: int) -> Tensor:
    result: Tensor = conv(x, group) if isinstance(conv, BinaryConv) else conv(x)
    return result


def _conv(state: State) -> nn.Module:
    """Binary or plain, of the entries under its path."""
    return BinaryConv(state) if BINARY in state else conv_of(state["weight"], state["weight"].shape[2] // 2)


class Half(nn.Module):
    """norm → SiLU → convolution: `conv` where that is binary or the block a plain one of the decoder."""

    def __init__(self, state: State, norm_groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(norm_groups, state["block.0.weight"].shape[0]), nn.SiLU(), nn.Identity()
        )
        self.conv = _conv(below(state, "conv"))

    def forward(self, x: Tensor, group: int) -> Tensor:
        return convolved(self.conv, self.block(x), group)


class ResBlock(nn.Module):
    """Half, the time's channels added, half, and x."""

    def __init__(self, state: State, norm_groups: int) -> None:
        super().__init__()
        self.timestep_func = nn.Sequential(nn.SiLU(), linear_of(state["timestep_func.1.weight"]))
        self.block1, self.block2 = (Half(below(state, name), norm_groups) for name in ("block1", "block2"))

    def forward(self, x: Tensor, embedding: Tensor, group: int) -> Tensor:
        hidden = self.block1(x, group) + self.timestep_func(embedding)[:, :, None, None]
        result: Tensor = self.block2(hidden, group) + x
        return result


class Attention(nn.Module):
    """One head over all positions, behind a norm, and x."""

    def __init__(self, state: State, norm_groups: int) -> None:
        super().__init__()
        channels = state["norm.weight"].shape[0]
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv, self.out = conv_of(state["qkv.weight"], bias=False), conv_of(state["out.weight"])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)
        weights = (query.transpose(1, 2) @ key / math.sqrt(x.shape[1])).softmax(-1)
        result: Tensor = self.out((value @ weights.transpose(1, 2)).reshape(x.shape)) + x
        return result


class Block(nn.Module):
    """A ResBlock, and attention where there is any."""

    def __init__(self, state: State, norm_groups: int) -> None:
        super().__init__()
        self.res_block = ResBlock(below(state, "res_block"), norm_groups)
        attention = below(state, "attn")
        self.attn = Attention(attention, norm_groups) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, group: int) -> Tensor:
        result: Tensor = self.attn(self.res_block(x, embedding, group))
        return result


class Down(nn.Module):
    """CP-Down: either half of the channels convolved, the sum unshuffled: [B, C, H, W] → [B, 2C, H/2, W/2]."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.biconv1, self.biconv2 = (_conv(below(state, name)) for name in ("biconv1", "biconv2"))

    def forward(self, x: Tensor, group: int) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return F.pixel_unshuffle(convolved(self.biconv1, first, group) + convolved(self.biconv2, second, group), 2)


class Up(nn.Module):
    """CP-Up: x convolved twice, side by side, pixel shuffle. [B, C, H, W] → [B, C/2, 2H, 2W]."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.biconv1, self.biconv2 = (_conv(below(state, name)) for name in ("biconv1", "biconv2"))

    def forward(self, x: Tensor, group: int) -> Tensor:
        both = [convolved(conv, x, group) for conv in (self.biconv1, self.biconv2)]
        return F.pixel_shuffle(torch.cat(both, dim=1), 2)


class Fusion(nn.Module):
    """CS-Fusion: channels of both halves of x interleaved, two 1×1 convolutions, their sum. [B, 2C, H, W] → C."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.biconv_1, self.biconv_2 = (_conv(below(state, name)) for name in ("biconv_1", "biconv_2"))

    def forward(self, x: Tensor, group: int) -> Tensor:
        one, other = x.chunk(2, dim=1)
        first = torch.cat([one[:, 1::2], other[:, 0::2]], dim=1)
        second = torch.cat([one[:, 0::2], other[:, 1::2]], dim=1)
        return convolved(self.biconv_1, first, group) + convolved(self.biconv_2, second, group)


class BinaryUNet(nn.Module):
    """cat(condition, x) [B, 6, H, W] and a timestep of `timesteps` → ε [B, 3, H, W]."""

    downs: nn.ModuleList
    mid: nn.ModuleList
    ups: nn.ModuleList

    def __init__(self, state: State, norm_groups: int, timesteps: int) -> None:
        super().__init__()
        first, second = (linear_of(state[f"timestep_level_mlp.{index}.weight"]) for index in (1, 3))
        self.timestep_level_mlp = nn.Sequential(nn.Identity(), first, nn.SiLU(), second)
        self.width, self.timesteps = first.in_features, timesteps
        self.groups = len({key.split(".TaR.")[1].split(".")[0] for key in state if ".TaR." in key})
        for name, resample in (("downs", Down), ("mid", Down), ("ups", Up)):
            layers = (_layer(entry, resample, norm_groups) for entry in listed(state, name))
            self.add_module(name, nn.ModuleList(layers))
        last = conv_of(state["final_conv.block.3.weight"], 1)
        norm = nn.GroupNorm(norm_groups, last.in_channels)
        self.final_conv = nn.ModuleDict({"block": nn.Sequential(norm, nn.SiLU(), nn.Identity(), last)})
        self.inputs, self.outputs = state["downs.0.weight"].shape[1], last.out_channels

    def group(self, timestep: int) -> int:
        return min(timestep * self.groups // self.timesteps, self.groups - 1)

    def embedding(self, timestep: int) -> Tensor:
        """[1, C]."""
        dtype = next(self.timestep_level_mlp.parameters()).dtype
        result: Tensor = self.timestep_level_mlp(time_encoding(timestep, self.width).to(dtype))
        return result

    def forward(self, x: Tensor, timestep: int) -> Tensor:
        embedding, group, skips = self.embedding(timestep), self.group(timestep), []
        for layer in self.downs:
            x = run(layer, x, embedding, group)
            skips.append(x)
        for layer in self.mid:
            x = run(layer, x, embedding, group)
        for layer in self.ups:
            x = torch.cat([x, skips.pop()], dim=1) if isinstance(layer, Fusion) else x
            x = run(layer, x, embedding, group)
        result: Tensor = self.final_conv["block"](x)
        return result


def run(layer: nn.Module, x: Tensor, embedding: Tensor, group: int) -> Tensor:
    match layer:
        case Block():
            result: Tensor = layer(x, embedding, group)
        case Down() | Up() | Fusion():
            result = layer(x, group)
        case _:
            result = layer(x)
    return result


def _layer(state: State, resample: type[nn.Module], norm_groups: int) -> nn.Module:
    if any(key.startswith("res_block.") for key in state):
        return Block(state, norm_groups)
    if any(key.startswith("biconv_1.") for key in state):
        return Fusion(state)
    if any(key.startswith("biconv1.") for key in state):
        return resample(state)
    return conv_of(state["weight"], 1)
