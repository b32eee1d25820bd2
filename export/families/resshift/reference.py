"""UNetModelSwin and DiTSRModel as ResShift's and DiT-SR's authors wrote them: the float reference, and what the
deployable UNet is folded from.

Kinds of layers, their order and their sizes are read from a checkpoint's keys and shapes:

| under a layer's path   | the layer                                                     |
| ---------------------- | ------------------------------------------------------------- |
| `in_layers.2.weight`   | ResBlock                                                      |
| `patch_embed.proj.…`   | Swin layer: 1×1 in, blocks, 1×1 out                           |
| `op.weight`            | Conv 3×3, stride 2                                            |
| `conv.weight`          | nearest ×2, Conv 3×3                                          |
| `weight`               | Conv 3×3                                                      |
| `blocks.N.attn_mask`   | the block shifts its windows; others run unshifted            |
| `blocks.N.adaLN_…`     | DiT-SR: AdaFM behind either norm                              |
| nothing                | DiT-SR-Lite: a level without blocks, which still gives a skip |

`feature_extractor` is DiT-SR's for faces: the LR picture, larger than the latent, convolved to its size.

Where a level was no larger than a window in training, the authors' blocks have no mask and never shift.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.states import State, below, conv_of, linear_of, listed
from torch import Tensor, nn

GROUPS = 32  # of every norm


def time_embedding(timestep: int, width: int) -> Tensor:
    """[1, width]: cosines, then sines, of t·10000^(−i/(width/2))."""
    half = width // 2
    angles = timestep * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    return torch.cat([angles.cos(), angles.sin()])[None]


class ScaledResBlock(nn.Module):
    """norm → SiLU → conv → norm·(1 + scale) + shift → SiLU → conv, and the shortcut; scale, shift of the time."""

    def __init__(self, state: State) -> None:
        super().__init__()
        inner, outer = (conv_of(state[f"{name}.weight"], 1) for name in ("in_layers.2", "out_layers.3"))
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, inner.in_channels), nn.SiLU(), inner)
        self.emb_layers = nn.Sequential(nn.SiLU(), linear_of(state["emb_layers.1.weight"]))
        norm = nn.GroupNorm(GROUPS, inner.out_channels)
        self.out_layers = nn.Sequential(norm, nn.SiLU(), nn.Identity(), outer)
        shortcut = state.get("skip_connection.weight")
        self.skip_connection = nn.Identity() if shortcut is None else conv_of(shortcut)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, *rest = self.out_layers
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = norm(self.in_layers(x)) * (1 + scale) + shift
        for layer in rest:
            hidden = layer(hidden)
        result: Tensor = self.skip_connection(x) + hidden
        return result


class WindowAttention(nn.Module):
    """Attention within windows. x [B·windows, tokens, C], mask [windows, tokens, tokens] or None → as x."""

    relative_position_index: Tensor

    def __init__(self, state: State) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(state["relative_position_bias_table"])
        self.register_buffer("relative_position_index", state["relative_position_index"])
        self.heads = self.relative_position_bias_table.shape[1]
        self.qkv, self.proj = linear_of(state["qkv.weight"]), linear_of(state["proj.weight"])

    def position_bias(self) -> Tensor:
        """[heads, tokens, tokens]."""
        tokens = self.relative_position_index.shape[0]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return bias.reshape(tokens, tokens, self.heads).permute(2, 0, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(windows, tokens, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * (channels // self.heads) ** -0.5, qkv[1], qkv[2]
        scores = query @ key.transpose(-2, -1) + self.position_bias()[None]
        if mask is not None:
            scores = scores.reshape(-1, mask.shape[0], self.heads, tokens, tokens) + mask[None, :, None]
            scores = scores.reshape(windows, self.heads, tokens, tokens)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(windows, tokens, channels)
        result: Tensor = self.proj(mixed)
        return result


class Mlp(nn.Module):
    """1×1 convolution → GELU → 1×1 convolution."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.fc1, self.fc2 = conv_of(state["fc1.weight"]), conv_of(state["fc2.weight"])

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class SwinBlock(nn.Module):
    """Swin Transformer's block on pictures [B, C, H, W], with group norms."""

    attn_mask: Tensor | None

    def __init__(self, state: State) -> None:
        super().__init__()
        channels = state["norm1.weight"].shape[0]
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, channels)
        self.attn, self.mlp = WindowAttention(below(state, "attn")), Mlp(below(state, "mlp"))
        self.register_buffer("attn_mask", state.get("attn_mask"))
        self.window = math.isqrt(self.attn.relative_position_index.shape[0])
        adaptive = "adaLN_scale_msa.1.weight" in state
        self.adaLN_scale_msa, self.adaLN_scale_mlp = (
            nn.Sequential(nn.SiLU(), linear_of(state[f"{name}.1.weight"])) if adaptive else None
            for name in ("adaLN_scale_msa", "adaLN_scale_mlp")
        )
        self.shift = 0 if self.attn_mask is None else self.window // 2

    def mask(self, height: int, width: int) -> Tensor:
        """[windows, tokens, tokens]: 0, or −100 where a token may not see another.

        Not Swin's mask: the released code tells regions apart along the height alone, and puts a window's tokens
        into the mask with rows and columns exchanged. Models were trained so, and it is kept.
        """
        regions = torch.zeros(1, height, width, 1, device=self.norm1.weight.device)
        regions[:, -self.window : -self.shift], regions[:, -self.shift :] = 1, 2
        own = self.partition(regions).unflatten(1, (self.window, self.window)).transpose(1, 2).flatten(1)
        return torch.where(own[:, None] == own[:, :, None], 0.0, -100.0)

    def partition(self, x: Tensor) -> Tensor:
        """[B, H, W, C] → [B·windows, tokens, C]."""
        x = x.unflatten(1, (-1, self.window)).unflatten(3, (-1, self.window)).transpose(2, 3)
        return x.reshape(-1, self.window**2, x.shape[-1])

    def modulated(self, x: Tensor, scale: nn.Module | None, embedding: Tensor) -> Tensor:
        """AdaFM at an embedding [1, 4·C], where the block has it."""
        return x if scale is None else adafm(x, scale(embedding).reshape(self.window, self.window // 2 + 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pixels = self.modulated(self.norm1(x), self.adaLN_scale_msa, embedding)
        pixels = pixels.permute(0, 2, 3, 1).roll((-self.shift, -self.shift), (1, 2))
        windows = self.attn(self.partition(pixels), self.mask(height, width) if self.shift else None)
        grid = (batch, height // self.window, width // self.window, self.window, self.window, channels)
        pixels = windows.reshape(grid).transpose(2, 3).reshape(batch, height, width, channels)
        x = x + pixels.roll((self.shift, self.shift), (1, 2)).permute(0, 3, 1, 2)
        result: Tensor = x + self.mlp(self.modulated(self.norm2(x), self.adaLN_scale_mlp, embedding))
        return result


def adafm(x: Tensor, scale: Tensor) -> Tensor:
    """DiT-SR's AdaFM (Cheng et al., 2025): patches of x [B, C, H, W] as large as a window, their frequencies times
    scale [rows, columns ≥ 0], the same for every channel and patch."""
    side = scale.shape[0]
    patches = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # [B, C, h, side, w, side]
    frequencies = torch.fft.rfft2(patches, dim=(3, 5)) * scale[:, None]
    return torch.fft.irfft2(frequencies, s=(side, side), dim=(3, 5)).reshape(x.shape)


class SwinLayer(nn.Module):
    """1×1 convolution, Swin blocks, 1×1 convolution; no shortcut around them. x [B, C, H, W]."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": conv_of(state["patch_embed.proj.weight"])})
        self.blocks = nn.ModuleList(SwinBlock(block) for block in listed(state, "blocks"))
        self.window = max((block.window for block in self.modules() if isinstance(block, SwinBlock)), default=1)
        self.patch_unembed = nn.ModuleDict({"proj": conv_of(state["patch_unembed.proj.weight"])})

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.patch_embed["proj"](x)
        for block in self.blocks:
            x = block(x, embedding)
        result: Tensor = self.patch_unembed["proj"](x)
        return result


class Down(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.op = conv_of(state["op.weight"], 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.op(x)
        return result


class Up(nn.Module):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.conv = conv_of(state["conv.weight"], 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class UNetModelSwin(nn.Module):
    """x [B, 6, h, w] (scaled latent, LR picture or its features) and a timestep → what the model predicts,
    [B, 3, h, w]."""

    def __init__(self, state: State) -> None:
        super().__init__()
        first, second = (linear_of(state[f"time_embed.{index}.weight"]) for index in (0, 2))
        self.time_embed, self.width = nn.Sequential(first, nn.SiLU(), second), first.in_features
        outputs = listed(state, "output_blocks")  # as many as there are inputs, those without a layer among them
        inputs = (below(state, f"input_blocks.{index}") for index in range(len(outputs)))
        self.input_blocks = nn.ModuleList(map(_layers, inputs))
        self.middle_block = _layers(below(state, "middle_block"))
        self.output_blocks = nn.ModuleList(map(_layers, outputs))
        last = conv_of(state["out.2.weight"], 1)
        self.inputs, self.outputs = state["input_blocks.0.0.weight"].shape[1], last.out_channels
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, last.in_channels), nn.SiLU(), last)
        branch = below(state, "feature_extractor")
        self.feature_extractor = _branch(branch) if branch else None

    @property
    def features(self) -> int:
        """Channels of what stands beside the latent: the LR picture's 3, or those of its features."""
        halvings = [] if self.feature_extractor is None else _halvings(self.feature_extractor)
        return halvings[-1].op.out_channels if halvings else 3

    @property
    def reduction(self) -> int:
        """How many times smaller the latent is than the LR picture."""
        return 1 if self.feature_extractor is None else int(2 ** len(_halvings(self.feature_extractor)))

    def features_of(self, lr: Tensor) -> Tensor:
        """What stands beside the latent."""
        return lr if self.feature_extractor is None else self.feature_extractor(lr)

    def embedding(self, timestep: int) -> Tensor:
        """[1, 4·C]."""
        result: Tensor = self.time_embed(time_embedding(timestep, self.width))
        return result

    def forward(self, x: Tensor, timestep: int) -> Tensor:
        embedding, skips = self.embedding(timestep), []
        for entry in self.input_blocks:
            x = _run(entry, x, embedding)
            skips.append(x)
        x = _run(self.middle_block, x, embedding)
        for entry in self.output_blocks:
            x = _run(entry, torch.cat([x, skips.pop()], dim=1), embedding)
        result: Tensor = self.out(x)
        return result


def _run(layers: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    for layer in layers.children():
        x = layer(x, embedding) if isinstance(layer, ScaledResBlock | SwinLayer) else layer(x)
    return x


def _halvings(branch: nn.Sequential) -> list[Down]:
    return [layer for layer in branch if isinstance(layer, Down)]


def _branch(state: State) -> nn.Sequential:
    """Convolution 3×3, SiLU, convolution of stride 2, as often as there are."""
    layers: list[nn.Module] = []
    for index in range(1 + max(int(key.split(".")[0]) for key in state)):
        own = below(state, str(index))
        layers.append(nn.SiLU() if not own else Down(own) if "op.weight" in own else conv_of(own["weight"], 1))
    return nn.Sequential(*layers)


def _layers(state: State) -> nn.Sequential:
    """What TimestepEmbedSequential holds."""
    kinds: dict[str, type[nn.Module]] = {
        "in_layers.2.weight": ScaledResBlock,
        "patch_embed.proj.weight": SwinLayer,
        "op.weight": Down,
        "conv.weight": Up,
    }
    layers: list[nn.Module] = []
    for entry in listed({f"layers.{key}": tensor for key, tensor in state.items()}, "layers"):
        kind = next((kind for key, kind in kinds.items() if key in entry), None)
        layers.append(conv_of(entry["weight"], 1) if kind is None else kind(entry))
    return nn.Sequential(*layers)
