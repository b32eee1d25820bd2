"""The blocks of the deployable twin, each built from its diffusers counterpart with constants folded.

Attribute names follow diffusers, so that a site's name is the path users know from checkpoints.
The timestep and the text embedding are gone: they became biases and constant K, V tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.quantize.modes import Mode, Moded
from passionsr_trt.export.quantize.sites import Port, SiteConv, SiteLinear
from passionsr_trt.export.quantize.sub_pixel import SubPixelConv
from torch import Tensor, nn


class ResBlock(nn.Module):
    """norm → SiLU → conv, twice, plus the shortcut. x [B, C, H, W] → [B, O, H, W].

    conv1.bias' = conv1.bias + time_emb_proj(SiLU(emb)), exact because the timestep is constant.
    """

    def __init__(self, block: Any, time_embedding: Tensor | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.conv1, self.conv2 = SiteConv.from_conv(block.conv1), SiteConv.from_conv(block.conv2)
        self.conv1.port.joined = self.conv2.port.joined = True
        shortcut = block.conv_shortcut
        self.conv_shortcut = None if shortcut is None else SiteConv.from_conv(shortcut)
        if time_embedding is not None and block.time_emb_proj is not None:
            projected = block.time_emb_proj(F.silu(time_embedding))[0]
            self.conv1.assign(self.conv1.weight.data, block.conv1.bias.data + projected.detach())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


def attend(query: Tensor, key_t: Tensor, value: Tensor, mode: Mode) -> Tensor:
    """softmax(q·kᵀ)·v with 1/√d already inside q. q [B,h,N,d], kᵀ [B,h,d,M], v [B,h,M,d] → [B,h,N,d]."""
    if mode is not Mode.QDQ:
        key = key_t.transpose(-1, -2)
        if key.dim() == 3:
            key, value = key[None], value[None]
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return torch.matmul(torch.softmax(torch.matmul(query, key_t), dim=-1), value)


class SelfAttention(Moded):
    """Multi-head self-attention on tokens [B, N, C]; q, k, v read one port. W_q carries 1/√d."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.heads
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
        out = attend(query, key_t, value, self.mode).transpose(1, 2)
        return self.to_out[0](out.reshape(batch, tokens, channels))


class ConstantCrossAttention(Moded):
    """Cross-attention to a constant text embedding: Kᵀ [h, d, tokens] and V [h, tokens, d] are constants."""

    key_t: Tensor
    value: Tensor

    def __init__(self, attention: Any, text: Tensor) -> None:
        super().__init__()
        self.heads = attention.heads
        self.to_q = SiteLinear.from_linear(attention.to_q)
        self.to_out = nn.ModuleList([SiteLinear.from_linear(attention.to_out[0])])
        self.to_q.scale_output(attention.scale)  # 1/√d goes into W_q
        key, value = (split_heads(linear(text), self.heads)[0] for linear in (attention.to_k, attention.to_v))
        self.register_buffer("key_t", key.detach().permute(1, 2, 0).contiguous())
        self.register_buffer("value", value.detach().transpose(0, 1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        query = split_heads(self.to_q(x), self.heads).transpose(1, 2)
        out = attend(query, self.key_t, self.value, self.mode).transpose(1, 2)
        return self.to_out[0](out.reshape(batch, tokens, channels))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] → [B, N, heads, C / heads]."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads)


class FeedForward(nn.Module):
    """GEGLU: proj → (value, gate) → value·GELU(gate) → linear. diffusers' first half is the value."""

    def __init__(self, feed_forward: Any) -> None:
        super().__init__()
        gate, _dropout, out = feed_forward.net[:3]
        self.proj = SiteLinear.from_linear(gate.proj)
        self.out = SiteLinear.from_linear(out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to constants, feed-forward; each with its norm and residual."""

    def __init__(self, block: Any, text: Tensor) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.attn1 = SelfAttention(block.attn1)
        self.attn2 = ConstantCrossAttention(block.attn2, text)
        self.ff = FeedForward(block.ff)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """norm → proj_in → transformer blocks → proj_out, plus x. [B, C, H, W] in and out.

    Convolutional projections (SD 1.x layout) are 1×1 and act as linears on tokens.
    """

    def __init__(self, transformer: Any, text: Tensor) -> None:
        super().__init__()
        self.norm = transformer.norm
        self.proj_in = _as_linear(transformer.proj_in)
        blocks = transformer.transformer_blocks
        self.transformer_blocks = nn.ModuleList(TransformerBlock(block, text) for block in blocks)
        self.proj_out = _as_linear(transformer.proj_out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.proj_in(to_tokens(self.norm(x)))
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return x + from_tokens(self.proj_out(tokens), x)


class SpatialSelfAttention(nn.Module):
    """The VAE's mid-block attention: group norm, attention over pixels, residual. [B, C, H, W] in and out."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.group_norm = attention.group_norm
        self.attention = SelfAttention(attention)

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


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] → [B, H·W, C]."""
    return x.flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, H·W, C] → [B, C, H, W], H and W taken from `like`."""
    return tokens.transpose(1, 2).reshape(like.shape[0], tokens.shape[2], like.shape[2], like.shape[3])


def _as_linear(module: Any) -> SiteLinear:
    if isinstance(module, nn.Linear):
        return SiteLinear.from_linear(module)
    return SiteLinear(module.weight.data.flatten(1), module.bias.data)
