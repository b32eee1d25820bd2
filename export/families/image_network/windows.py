"""Image networks' attention in windows, for any picture and any batch (export/families/windows.py)."""

from __future__ import annotations

from typing import Any

import torch
from passionsr_trt.export.families.windows import Pair, from_windows, shift_mask, to_windows
from torch import Tensor, nn


class SwinBlock(nn.Module):
    """Swin Transformer's block: x [B, H·W, C] and (H, W) → [B, H·W, C]."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window, self.shift = (block.window_size,) * 2, block.shift_size

    def forward(self, x: Tensor, x_size: Pair) -> Tensor:
        batch, tokens, channels = x.shape
        picture, mask = self.norm1(x).reshape(batch, *x_size, channels), None
        if self.shift:
            picture = torch.roll(picture, (-self.shift, -self.shift), (1, 2))
            mask = shift_mask(x_size, self.window, (self.shift, self.shift)).to(x.dtype)
        picture = from_windows(self.attn(to_windows(picture, self.window), mask=mask), self.window, x_size)
        if self.shift:
            picture = torch.roll(picture, (self.shift, self.shift), (1, 2))
        x = x + picture.reshape(batch, tokens, channels)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class RectangleAttention(nn.Module):
    """DAT's attention in windows that lie or stand; its MLP of positions is a constant.

    qkv [3, B, H·W, C] → [B, H, W, C].
    """

    bias: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.window, self.heads, self.scale = (
            (attention.H_sp, attention.W_sp),
            attention.num_heads,
            attention.scale,
        )
        tokens = self.window[0] * self.window[1]
        table = attention.pos(attention.rpe_biases)[attention.relative_position_index.view(-1)]
        self.register_buffer("bias", table.view(tokens, tokens, -1).permute(2, 0, 1).contiguous())

    def forward(self, qkv: Tensor, height: int, width: int, mask: Tensor | None = None) -> Tensor:
        batch, channels = qkv.shape[1], qkv.shape[3]
        query, key, value = (self.heads_of(part.reshape(batch, height, width, channels)) for part in qkv)
        scores = (query * self.scale) @ key.transpose(-2, -1) + self.bias.to(query.dtype)
        if mask is not None:
            tokens = mask.shape[1]
            scores = scores.reshape(batch, -1, self.heads, tokens, tokens) + mask[None, :, None]
            scores = scores.reshape(-1, self.heads, tokens, tokens)
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)
        windows = mixed.reshape(-1, self.window[0] * self.window[1], channels)
        return from_windows(windows, self.window, (height, width))

    def heads_of(self, x: Tensor) -> Tensor:
        """[B, H, W, C] → [B·windows, heads, tokens, C / heads]."""
        windows = to_windows(x, self.window)
        return windows.reshape(windows.shape[0], windows.shape[1], self.heads, -1).transpose(1, 2)
