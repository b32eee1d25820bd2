"""The halves of an autoencoder as diffusers builds them (AutoencoderKL, VQModel), without what lies between them.

A 1×1 convolution behind the encoder's last 3×3 one merges into it, exactly. One in front of the decoder's first
cannot: its bias would stand in the zero padding too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.blocks import Mid, ResBlock, SpatialSelfAttention, resamplers
from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.sites import SiteConv
from torch import Tensor, nn

AUTOENCODER_ABSORB = (
    Absorb("attention.to_q", "group_norm"),
    Absorb("attention.to_out.0", "attention.to_v", Into.ROWS),
)


def middle(block: Any, slices: int) -> Mid:
    """With attention over pixels, its queries in `slices`."""
    return Mid(block, None, partial(SpatialSelfAttention, slices=slices))


class Stage(nn.Module):
    """ResBlocks and the level's resampler."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(resnet, None) for resnet in block.resnets)
        self.downsamplers, self.upsamplers = resamplers(block)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """image [B, 3, H, W] → what conv_out gives, [B, C, H/s, W/s]. mix: a 1×1 convolution behind it, merged."""

    def __init__(self, encoder: Any, mix: nn.Conv2d | None, slices: int = 1) -> None:
        super().__init__()
        self.conv_in = SiteConv.from_conv(encoder.conv_in)
        self.down_blocks = nn.ModuleList(Stage(block) for block in encoder.down_blocks)
        self.mid_block = middle(encoder.mid_block, slices)
        self.conv_norm_out = encoder.conv_norm_out
        self.conv_out = SiteConv.from_conv(encoder.conv_out)
        if mix is not None:
            assert mix.bias is not None
            rows = mix.weight.data.double().flatten(1)
            weight = torch.einsum("om,mikl->oikl", rows, encoder.conv_out.weight.data.double())
            bias = rows @ encoder.conv_out.bias.data.double() + mix.bias.data.double()
            self.conv_out.assign(weight.float(), bias.float())

    def encode(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """What conv_in takes, [B, C, h, w] → image [B, 3, s·h, s·w]. before: a 1×1 convolution in front of it."""

    def __init__(self, decoder: Any, before: SiteConv | None = None, slices: int = 1) -> None:
        super().__init__()
        if before is not None:
            self.post_quant_conv = before
        self.conv_in = SiteConv.from_conv(decoder.conv_in)
        self.mid_block = middle(decoder.mid_block, slices)
        self.up_blocks = nn.ModuleList(Stage(block) for block in decoder.up_blocks)
        self.conv_norm_out = decoder.conv_norm_out
        self.conv_out = SiteConv.from_conv(decoder.conv_out)

    def decode(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
