"""The UNet's transformer blocks, each built from its diffusers counterpart with constants folded.

Attribute names follow diffusers, so that a site's name is the path users know from checkpoints.
The text embedding is gone: it became constant K, V tensors.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from passionsr_trt.export.families.blocks import SelfAttention, attend, from_tokens, split_heads, to_tokens
from passionsr_trt.export.model.sites import SiteLinear
from torch import Tensor, nn


class ConstantCrossAttention(nn.Module):
    """Cross-attention to a constant text embedding: Kᵀ [h, d, tokens] and V [h, tokens, d] are constants."""

    key_t: Tensor
    value: Tensor
    weight_buffers = ("key_t", "value")

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
        out = attend(query, self.key_t, self.value).transpose(1, 2)
        return self.to_out[0](out.reshape(batch, tokens, channels))


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


def _as_linear(module: Any) -> SiteLinear:
    if isinstance(module, nn.Linear):
        return SiteLinear.from_linear(module)
    return SiteLinear(module.weight.data.flatten(1), module.bias.data)
