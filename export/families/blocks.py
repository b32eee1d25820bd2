"""Blocks that latent models share, each built from its diffusers counterpart with constants folded.

Attribute names follow diffusers, so that a site's name is the path users know from checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.model.sites import Port, SiteConv, SiteLinear
from passionsr_trt.export.model.sub_pixel import SubPixelConv
from torch import Tensor, nn


class ResBlock(nn.Module):
    """norm → SiLU → conv, twice, plus the shortcut. x [B, C, H, W] → [B, O, H, W].

    conv1.bias' = conv1.bias + time_emb_proj(SiLU(emb)), exact because the timestep is constant.
    """

    def __init__(self, block: Any, time_embedding: Tensor | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.conv1, self.conv2 = SiteConv.from_conv(block.conv1), SiteConv.from_conv(block.conv2)
        self.conv1.port.fused = self.conv2.port.fused = True
        shortcut = block.conv_shortcut
        self.conv_shortcut = None if shortcut is None else SiteConv.from_conv(shortcut)
        if time_embedding is not None and block.time_emb_proj is not None:
            projected = block.time_emb_proj(F.silu(time_embedding))[0]
            self.conv1.assign(self.conv1.weight.data, block.conv1.bias.data + projected.detach())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


def attend(query: Tensor, key_t: Tensor, value: Tensor, slices: int = 1) -> Tensor:
    """softmax(q·kᵀ)·v with 1/√d already inside q. q [B,h,N,d], kᵀ [B,h,d,M], v [B,h,M,d] → [B,h,N,d].

    slices: in a graph, queries go through in so many pieces, which N has to be a multiple of: an engine that does
    not fuse attention (TensorRT-RTX at d = 512) holds the scores of one piece.
    """
    if not torch.onnx.is_in_onnx_export():
        key = key_t.transpose(-1, -2)
        if key.dim() == 3:
            key, value = key[None], value[None]
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)
    if slices == 1:
        return torch.matmul(torch.softmax(torch.matmul(query, key_t), dim=-1), value)
    pieces = query.unflatten(2, (slices, -1))
    return torch.cat([attend(pieces[:, :, piece], key_t, value) for piece in range(slices)], dim=2)


class SelfAttention(nn.Module):
    """Multi-head self-attention on tokens [B, N, C]; q, k, v read one port. W_q carries 1/√d. slices: `attend`."""

    def __init__(self, attention: Any, slices: int = 1) -> None:
        super().__init__()
        self.heads, self.slices = attention.heads, slices
        port = Port()
        self.to_q = SiteLinear.from_linear(attention.to_q, port)
        self.to_k = SiteLinear.from_linear(attention.to_k, port)
        self.to_v = SiteLinear.from_linear(attention.to_v, port)
        self.to_out = nn.ModuleList([SiteLinear.from_linear(attention.to_out[0])])
        self.to_q.scale_output(attention.scale)  # 1/√d goes into W_q

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        x = self.to_q.port(x)
        query = split_heads(self.to_q(x, ported=True), self.heads).transpose(1, 2)
        key_t = split_heads(self.to_k(x, ported=True), self.heads).permute(0, 2, 3, 1)
        value = split_heads(self.to_v(x, ported=True), self.heads).transpose(1, 2)
        out = attend(query, key_t, value, self.slices).transpose(1, 2)
        return self.to_out[0](out.reshape(batch, tokens, channels))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] → [B, N, heads, C / heads]."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads)


class SpatialSelfAttention(nn.Module):
    """The VAE's mid-block attention: group norm, attention over pixels, residual. [B, C, H, W] in and out."""

    def __init__(self, attention: Any, slices: int = 1) -> None:
        super().__init__()
        self.group_norm = attention.group_norm
        self.attention = SelfAttention(attention, slices)

    def forward(self, x: Tensor) -> Tensor:
        return x + from_tokens(self.attention(to_tokens(self.group_norm(x))), x)


class Upsample(nn.Module):
    """Nearest ×2 and a 3×3 convolution, in sub-pixel form."""

    def __init__(self, upsample: Any) -> None:
        super().__init__()
        self.conv = SubPixelConv.of(upsample.conv.weight.data, upsample.conv.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Downsample(nn.Module):
    """Stride-2 3×3 convolution; diffusers' VAE pads (0,1,0,1), which becomes asymmetric pads of the Conv."""

    def __init__(self, downsample: Any) -> None:
        super().__init__()
        pads = (0, 0, 1, 1) if downsample.padding == 0 else None
        self.conv = SiteConv.from_conv(downsample.conv, pads)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def resamplers(block: Any) -> tuple[nn.ModuleList, nn.ModuleList]:
    """A level's Downsample and its Upsample, a list of one or none each."""
    down, up = getattr(block, "downsamplers", None), getattr(block, "upsamplers", None)
    return nn.ModuleList([Downsample(down[0])] if down else []), nn.ModuleList([Upsample(up[0])] if up else [])


class Mid(nn.Module):
    """ResBlock, attention as `attend` makes it of the block's, ResBlock."""

    def __init__(self, block: Any, time_embedding: Tensor | None, attend: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(resnet, time_embedding) for resnet in block.resnets)
        self.attentions = nn.ModuleList(attend(attention) for attention in block.attentions)

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention, resnet in zip(self.attentions, self.resnets[1:], strict=True):
            x = resnet(attention(x))
        return x


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] → [B, H·W, C]."""
    return x.flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, H·W, C] → [B, C, H, W], H and W taken from `like`."""
    return tokens.transpose(1, 2).reshape(like.shape[0], tokens.shape[2], like.shape[2], like.shape[3])
