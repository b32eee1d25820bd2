"""Image networks' attention in windows, for any picture and any batch (export/families/windows.py)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.blocks import split_heads
from passionsr_trt.export.families.windows import Pair, from_windows, in_windows, shift_mask, to_windows
from passionsr_trt.export.model.sites import Operand
from torch import Tensor, nn


def to_wider_windows(x: Tensor, window: int, wider: int) -> Tensor:
    """[B, H, W, C] → [B·windows, wider², C]: every window with what surrounds it, zeros beyond the picture.

    As nn.Unfold makes them, which no exporter takes for any picture. wider ≤ 2·window, the difference is even.
    """
    edge = wider - window
    for axis in (1, 2):
        beyond = (0, 0) * (3 - axis) + (edge // 2, window - edge // 2)
        padded = F.pad(x, beyond)
        length = x.shape[axis]
        own, after = (
            padded.narrow(axis, start, length).unflatten(axis, (length // window, window)) for start in (0, window)
        )
        x = torch.cat([own, after.narrow(axis + 1, 0, edge)], axis + 1).flatten(axis, axis + 1)
    return to_windows(x, (wider, wider))


class Products(nn.Module):
    """softmax(q·kᵀ + bias + mask)·v for windows; its four factors may be quantized.

    q [W, N, heads, d], k and v [W, M, heads, d], bias [heads, N, M], mask [a picture's windows, N, M] → [W, N, C].
    """

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.shares, self.value = (Operand() for _factor in range(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (factor.transpose(1, 2) for factor in (q, k, v))
        scores = self.query(q) @ self.key(k).transpose(-2, -1) + bias.to(q.dtype)
        if mask is not None:
            apart = scores.reshape(-1, mask.shape[0], *scores.shape[1:]) + mask[None, :, None]
            scores = apart.reshape(scores.shape)
        mixed = self.shares(torch.softmax(scores, dim=-1)) @ self.value(v)
        return mixed.transpose(1, 2).reshape(mixed.shape[0], mixed.shape[2], -1)


def positions(table: Tensor, index: Tensor) -> Tensor:
    """Swin Transformer's relative position bias: table [distances, heads], index [N, M] → [heads, N, M]."""
    return table[index.reshape(-1)].reshape(*index.shape, -1).permute(2, 0, 1)


class WindowAttention(nn.Module):
    """SwinIR's and HAT's attention of windows: x [W, N, C] → [W, N, C]. HAT hands in the index of positions."""

    index: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.products = attention.qkv, attention.proj, Products()
        self.heads, self.scale = attention.num_heads, attention.scale
        self.table: Tensor = attention.relative_position_bias_table
        self.register_buffer("index", getattr(attention, "relative_position_index", None))

    def forward(self, x: Tensor, rpi: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        bias = positions(self.table, self.index if rpi is None else rpi)
        mixed: Tensor = self.proj(self.products(query * self.scale, key, value, bias, mask))
        return mixed


class SwinBlock(nn.Module):
    """Swin Transformer's block: x [B, H·W, C] and (H, W) → [B, H·W, C]."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window, self.shift = (block.window_size,) * 2, block.shift_size

    def forward(self, x: Tensor, x_size: Pair) -> Tensor:
        batch, tokens, channels = x.shape
        picture = self.norm1(x).reshape(batch, *x_size, channels)
        attend = partial(self.attn, mask=self.mask(x, x_size) if self.shift else None)
        picture = in_windows(picture, self.window, self.shift, attend)
        x = x + picture.reshape(batch, tokens, channels)
        return x + self.after(self.norm2(x), x_size)

    def mask(self, x: Tensor, x_size: Pair) -> Tensor:
        return shift_mask(x_size, self.window, (self.shift, self.shift), x.device).to(x.dtype)

    def after(self, x: Tensor, _x_size: Pair) -> Tensor:
        result: Tensor = self.mlp(x)
        return result


class PermutedAttention(nn.Module):
    """SRFormer's attention: keys and values are 2×2 tokens each. x [W, N, C] → [W, N, C]."""

    bias: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q, self.kv, self.proj, self.products = attention.q, attention.kv, attention.proj, Products()
        self.heads, self.scale, self.halves = attention.num_heads, attention.scale, attention.permuted_window_size
        table, index = attention.relative_position_bias_table, attention.aligned_relative_position_index
        self.register_buffer("bias", positions(table, index).contiguous())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        down, across = self.halves
        gathered = self.kv(x).reshape(-1, down, 2, across, 2, 2, x.shape[2] // 4).permute(0, 1, 3, 5, 2, 4, 6)
        pairs = gathered.reshape(-1, down * across, 2, x.shape[2])
        key, value = (split_heads(pairs[:, :, which], self.heads) for which in (0, 1))
        query = split_heads(self.q(x), self.heads) * self.scale
        mixed: Tensor = self.proj(self.products(query, key, value, self.bias, mask))
        return mixed


class PermutedBlock(SwinBlock):
    """SRFormer's block: its MLP convolves; 2×2 tokens lie on the side of the seam where their first one does."""

    def mask(self, x: Tensor, x_size: Pair) -> Tensor:
        return super().mask(x, x_size).unflatten(2, self.window)[..., ::2, ::2].flatten(2)

    def after(self, x: Tensor, x_size: Pair) -> Tensor:
        result: Tensor = self.mlp(x, x_size)
        return result


class RectangleAttention(nn.Module):
    """DAT's and CRAFT's attention in windows that lie or stand; its MLP of positions is a constant.

    qkv [3, B, H·W, C] → [B, H, W, C]. What CRAFT hands in of positions is in the constant already.
    """

    bias: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.window = (attention.H_sp, attention.W_sp)
        self.heads, self.scale, self.products = attention.num_heads, attention.scale, Products()
        table = attention.pos(attention.rpe_biases)
        self.register_buffer("bias", positions(table, attention.relative_position_index).contiguous())

    def forward(
        self,
        qkv: Tensor,
        height: int,
        width: int,
        mask: Tensor | None = None,
        rpi: Any = None,
        rpe_biases: Any = None,
    ) -> Tensor:
        pictures = (part.reshape(part.shape[0], height, width, -1) for part in qkv)
        query, key, value = (split_heads(to_windows(picture, self.window), self.heads) for picture in pictures)
        mixed = self.products(query * self.scale, key, value, self.bias, mask)
        return from_windows(mixed, self.window, (height, width))


class HybridBlock(nn.Module):
    """HAT's block: attention in windows beside a convolution of the same. x [B, H·W, C] → [B, H·W, C]."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.conv_block, self.conv_scale = block.conv_block, block.conv_scale
        self.window, self.shift = (block.window_size,) * 2, block.shift_size

    def forward(self, x: Tensor, x_size: Pair, rpi_sa: Tensor, attn_mask: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        picture = self.norm1(x).reshape(batch, *x_size, channels)
        beside = self.conv_block(picture.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        attend = partial(self.attn, rpi=rpi_sa, mask=attn_mask if self.shift else None)
        picture = in_windows(picture, self.window, self.shift, attend)
        x = x + (picture + beside * self.conv_scale).reshape(batch, tokens, channels)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class OverlapAttention(nn.Module):
    """HAT's block whose windows look beyond themselves. x [B, H·W, C] → [B, H·W, C]."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.qkv, self.proj = block.norm1, block.qkv, block.proj
        self.norm2, self.mlp, self.table = block.norm2, block.mlp, block.relative_position_bias_table
        self.window, self.wider = block.window_size, block.overlap_win_size
        self.heads, self.scale, self.products = block.num_heads, block.scale, Products()

    def forward(self, x: Tensor, x_size: Pair, rpi: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        window = (self.window,) * 2
        query, key, value = self.qkv(self.norm1(x)).reshape(batch, *x_size, 3 * channels).chunk(3, dim=-1)
        windows = (
            to_windows(query * self.scale, window),
            *(to_wider_windows(part, self.window, self.wider) for part in (key, value)),
        )
        heads = (split_heads(part, self.heads) for part in windows)
        mixed = from_windows(self.products(*heads, positions(self.table, rpi)), window, x_size)
        x = self.proj(mixed.reshape(batch, tokens, channels)) + x
        result: Tensor = x + self.mlp(self.norm2(x))
        return result
