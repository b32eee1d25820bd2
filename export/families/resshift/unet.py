"""The deployable UNet: latent of the enlarged picture, noise, LR picture → clean latent x0. Constants are folded.

1. The timestep: GroupNorm → ·(1 + scale) + shift is one GroupNorm, γ' = γ(1 + scale), β' = β(1 + scale) + shift.
2. x_T = z_y + κ√η·noise, divided by √(κ²η + 1): gains of the first convolution's columns, one set for z_y and one
   for the noise. It reads cat(z_y, noise, LR picture).
3. 1/√d of the windows' attention → W_q; the table of relative positions → one constant for each head.
4. Nearest ×2 in front of a 3×3 convolution → sub-pixel form.

Names of sites are the authors'; a window's qkv is three sites that read one port.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.resshift import reference
from passionsr_trt.export.families.windows import HIDDEN, in_windows
from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.sites import Port, SiteConv, SiteLinear, data_of
from passionsr_trt.export.model.sub_pixel import SubPixelConv
from torch import Tensor, nn

UNET_ABSORB = (
    Absorb("attn.to_q", "norm1"),
    Absorb("attn.proj", "attn.to_v", Into.ROWS),
    Absorb("mlp.fc1", "norm2"),
)


class ResBlock(nn.Module):
    """norm → SiLU → conv, twice, plus the shortcut. x [B, C, H, W] → [B, O, H, W]. Fold 1."""

    def __init__(self, block: reference.ScaledResBlock, embedding: Tensor) -> None:
        super().__init__()
        inner, outer = site(block.in_layers[2]), site(block.out_layers[3])
        inner.port.fused = outer.port.fused = True
        self.in_layers = nn.Sequential(block.in_layers[0], nn.SiLU(), inner)
        scale, shift = block.emb_layers(embedding)[0].double().chunk(2)
        before = block.out_layers[0]
        assert isinstance(before, nn.GroupNorm)
        norm = nn.GroupNorm(before.num_groups, before.num_channels, before.eps)
        norm.weight.data = (before.weight.double() * (1 + scale)).float()
        norm.bias.data = (before.bias.double() * (1 + scale) + shift).float()
        self.out_layers = nn.Sequential(norm, nn.SiLU(), nn.Identity(), outer)
        shortcut = block.skip_connection
        self.skip_connection = site(shortcut) if isinstance(shortcut, nn.Conv2d) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.skip_connection(x) + self.out_layers(self.in_layers(x))
        return result


class WindowAttention(nn.Module):
    """x [B·windows, tokens, C] → the same; seam [rows of windows, tokens, tokens] or None. Fold 3."""

    bias: Tensor

    def __init__(self, attention: reference.WindowAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        weights, biases = attention.qkv.weight.data.chunk(3), attention.qkv.bias.data.chunk(3)
        port = Port()
        self.to_q, self.to_k, self.to_v = (
            SiteLinear(weight.clone(), bias.clone(), port) for weight, bias in zip(weights, biases, strict=True)
        )
        self.to_q.scale_output((weights[0].shape[0] // self.heads) ** -0.5)
        self.proj = SiteLinear.from_linear(attention.proj)
        self.register_buffer("bias", attention.position_bias().detach().contiguous())

    def forward(self, x: Tensor, seam: Tensor | None, across: int) -> Tensor:
        windows, tokens, channels = x.shape
        x = self.to_q.port(x)
        query, key, value = (
            layer(x, ported=True).reshape(windows, tokens, self.heads, -1).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        scores = query @ key.transpose(-2, -1) + self.bias.to(query.dtype)
        if seam is not None:
            grid = (-1, seam.shape[0], across, self.heads, tokens, tokens)
            scores = (scores.reshape(grid) + seam[:, None, None].to(scores.dtype)).reshape(scores.shape)
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)
        return self.proj(mixed.reshape(windows, tokens, channels))


class Mlp(nn.Module):
    """1×1 convolution → GELU → 1×1 convolution."""

    def __init__(self, mlp: reference.Mlp) -> None:
        super().__init__()
        self.fc1, self.fc2 = site(mlp.fc1), site(mlp.fc2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def seam_mask(rows: int, window: int, device: torch.device | None = None) -> Tensor:
    """[rows of windows, tokens, tokens]: what the authors' mask (reference.py) is for any width.

    In the last row of windows alone, columns left of the middle and right of it do not see each other.
    """
    right = (torch.arange(window, device=device) >= window - window // 2).repeat(window)
    last = HIDDEN * (right[:, None] != right[None]).float()
    return F.pad(last[None], (0, 0, 0, 0, rows - 1, 0))


class SwinBlock(nn.Module):
    """Attention in windows and an MLP, each with its group norm and residual. x [B, C, H, W], any multiples."""

    def __init__(self, block: reference.SwinBlock) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn, self.mlp = WindowAttention(block.attn), Mlp(block.mlp)
        self.window, self.shift = block.window, block.shift

    def forward(self, x: Tensor) -> Tensor:
        down, across = x.shape[2] // self.window, x.shape[3] // self.window
        seam = seam_mask(down, self.window, x.device) if self.shift else None
        attend = partial(self.attn, seam=seam, across=across)
        pixels = in_windows(self.norm1(x).permute(0, 2, 3, 1), (self.window,) * 2, self.shift, attend)
        x = x + pixels.permute(0, 3, 1, 2)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class SwinLayer(nn.Module):
    """1×1 convolution, Swin blocks, 1×1 convolution."""

    def __init__(self, layer: reference.SwinLayer) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": site(layer.patch_embed["proj"])})
        blocks = (block for block in layer.blocks if isinstance(block, reference.SwinBlock))
        self.blocks = nn.ModuleList(SwinBlock(block) for block in blocks)
        self.patch_unembed = nn.ModuleDict({"proj": site(layer.patch_unembed["proj"])})

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.patch_embed["proj"], *self.blocks, self.patch_unembed["proj"]):
            x = layer(x)
        return x


class Resample(nn.Module):
    """A stride-2 convolution (`op`), or nearest ×2 and a convolution in sub-pixel form (`conv`)."""

    def __init__(self, name: str, layer: SiteConv) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = getattr(self, self.name)(x)
        return result


class OneStepUNet(nn.Module):
    """z_y, noise [B, C, h, w] and lr [B, 3, h, w] → x0 [B, C, h, w], float32 in and out."""

    def __init__(self, unet: reference.UNetModelSwin, timestep: int, noise_gain: float) -> None:
        super().__init__()
        with torch.no_grad():
            embedding = unet.embedding(timestep)
            self.input_blocks = nn.ModuleList(_layers(entry, embedding) for entry in unet.input_blocks)
            self.middle_block = _layers(unet.middle_block, embedding)
            self.output_blocks = nn.ModuleList(_layers(entry, embedding) for entry in unet.output_blocks)
            self.out = nn.Sequential(unet.out[0], nn.SiLU(), site(unet.out[2]))
            first = next(module for module in self.modules() if isinstance(module, SiteConv))
            first.assign(with_noise(first.weight.data, unet.outputs, noise_gain), data_of(first.bias))

    def forward(self, z_y: Tensor, noise: Tensor, lr: Tensor) -> Tensor:
        x, skips = torch.cat([z_y, noise, lr], dim=1), []
        for entry in self.input_blocks:
            x = entry(x)
            skips.append(x)
        x = self.middle_block(x)
        for entry in self.output_blocks:
            x = entry(torch.cat([x, skips.pop()], dim=1))
        result: Tensor = self.out(x)
        return result


def with_noise(weight: Tensor, channels: int, noise_gain: float) -> Tensor:
    """Fold 2. weight [O, C + 3, 3, 3] of (x_T/√(g² + 1), lr) → [O, 2C + 3, 3, 3] of (z_y, noise, lr); g = κ√η."""
    latent, lr = weight[:, :channels].double() / (noise_gain**2 + 1) ** 0.5, weight[:, channels:]
    return torch.cat([latent.float(), (latent * noise_gain).float(), lr], dim=1)


def site(conv: nn.Module) -> SiteConv:
    assert isinstance(conv, nn.Conv2d)
    return SiteConv.from_conv(conv)


def _layers(layers: nn.Module, embedding: Tensor) -> nn.Sequential:
    made: list[nn.Module] = []
    for layer in layers.children():
        match layer:
            case reference.ScaledResBlock():
                made.append(ResBlock(layer, embedding))
            case reference.SwinLayer():
                made.append(SwinLayer(layer))
            case reference.Down():
                made.append(Resample("op", site(layer.op)))
            case reference.Up():
                written = site(layer.conv)
                made.append(Resample("conv", SubPixelConv.of(written.weight.data, data_of(written.bias))))
            case _:
                made.append(site(layer))
    return nn.Sequential(*made)
