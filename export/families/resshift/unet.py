"""The deployable UNet of one step: a latent, noise, LR picture → the next latent. Constants are folded.

| step               | reads                                  | gives                                         |
| ------------------ | -------------------------------------- | --------------------------------------------- |
| the only one       | z_y, noise, lr                         | x0                                            |
| the first of many  | z_y, noise, the step's noise, lr       | the sampler's x_{T−1} (sampler.py)            |
| one between        | x_t, the step's noise, lr              | x_{t−1}                                       |
| the last           | x_1, lr                                | x0                                            |

1. The timestep: GroupNorm → ·(1 + scale) + shift is one GroupNorm, γ' = γ(1 + scale), β' = β(1 + scale) + shift.
2. 1/√(κ²η + 1) of what the network sees, and κ√η of x_T = z_y + κ√η·noise: gains of the first convolution's
   columns. It reads cat(z_y, noise, LR picture) or cat(x_t, LR picture).
   DiT-SR: AdaFM is a constant matrix on the positions of a window's patch, the same for every channel.
3. 1/√d of the windows' attention → W_q; the table of relative positions → one constant for each head.
4. Nearest ×2 in front of a 3×3 convolution → sub-pixel form.

The sampler's affine map stands behind the network, in float32. Steps share all weights that no constant changed.
Names of sites are the authors'; a window's qkv is three sites that read one port.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.resshift import reference
from passionsr_trt.export.families.resshift.sampler import Step
from passionsr_trt.export.families.windows import HIDDEN, in_windows
from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.sites import Port, SiteConv, SiteLinear, data_of
from passionsr_trt.export.model.sub_pixel import SubPixelConv
from torch import Tensor, nn


def unet_absorb(adaptive: bool) -> tuple[Absorb, ...]:
    """adaptive: AdaFM lies between a norm and its port, where a scale of channels passes and a shift does not."""
    return (
        Absorb("attn.to_q", "norm1", takes_shift=not adaptive),
        Absorb("attn.proj", "attn.to_v", Into.ROWS),
        Absorb("mlp.fc1", "norm2", takes_shift=not adaptive),
    )


class ResBlock(nn.Module):
    """norm → SiLU → conv, twice, plus the shortcut. x [B, C, H, W] → [B, O, H, W]. Fold 1 is yet to be done."""

    def __init__(self, block: reference.ScaledResBlock) -> None:
        super().__init__()
        inner, outer = site(block.in_layers[2]), site(block.out_layers[3])
        inner.port.fused = outer.port.fused = True
        self.in_layers = nn.Sequential(block.in_layers[0], nn.SiLU(), inner)
        self.out_layers = nn.Sequential(block.out_layers[0], nn.SiLU(), nn.Identity(), outer)
        shortcut = block.skip_connection
        self.skip_connection = site(shortcut) if isinstance(shortcut, nn.Conv2d) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.skip_connection(x) + self.out_layers(self.in_layers(x))
        return result


def conditioned(block: reference.ScaledResBlock, embedding: Tensor) -> nn.GroupNorm:
    """Fold 1: the block's second norm at one timestep, whose embedding is [1, 4·C]."""
    scale, shift = block.emb_layers(embedding)[0].double().chunk(2)
    before = block.out_layers[0]
    assert isinstance(before, nn.GroupNorm)
    norm = nn.GroupNorm(before.num_groups, before.num_channels, before.eps)
    norm.weight.data = (before.weight.double() * (1 + scale)).float()
    norm.bias.data = (before.bias.double() * (1 + scale) + shift).float()
    return norm


class AdaFM(nn.Module):
    """x [B, C, H, W] → the same: a matrix [side², side²] on the positions of every patch. Fold 1."""

    matrix: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        pixels = in_windows(x.permute(0, 2, 3, 1), (self.side,) * 2, 0, lambda patches: self.matrix @ patches)
        return pixels.permute(0, 3, 1, 2)


def adafm_matrix(scale: nn.Module, side: int, embedding: Tensor) -> Tensor:
    """[side², side²], symmetric: what AdaFM makes of every unit patch, in float64."""
    gains = scale(embedding).double().reshape(side, side // 2 + 1)
    patches = torch.eye(side**2, dtype=torch.float64, device=gains.device).reshape(side**2, 1, side, side)
    return reference.adafm(patches, gains).flatten(1).t().float().contiguous()


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
        adaptive = block.adaLN_scale_msa is not None
        self.adafm1, self.adafm2 = (AdaFM(self.window) if adaptive else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        down, across = x.shape[2] // self.window, x.shape[3] // self.window
        seam = seam_mask(down, self.window, x.device) if self.shift else None
        attend = partial(self.attn, seam=seam, across=across)
        pixels = in_windows(self.adafm1(self.norm1(x)).permute(0, 2, 3, 1), (self.window,) * 2, self.shift, attend)
        x = x + pixels.permute(0, 3, 1, 2)
        result: Tensor = x + self.mlp(self.adafm2(self.norm2(x)))
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


class UNet(nn.Module):
    """The network at one timestep, float32 in and out. reads_start: cat(z_y, noise, lr), not cat(x_t, lr).

    gains: of the step, which its graph holds.
    """

    reads_start = False
    gains: tuple[str, ...] = ()
    input_blocks: nn.ModuleList
    middle_block: nn.Sequential
    output_blocks: nn.ModuleList
    out: nn.Sequential

    def __init__(self, unet: reference.UNetModelSwin, layers: nn.ModuleDict, step: Step) -> None:
        """layers: `layers_of(unet)`; their tensors are shared with all other steps."""
        super().__init__()
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*layers.parameters(), *layers.buffers())}
        for name, layer in copy.deepcopy(layers, shared).items():
            self.add_module(name, layer)
        embedding, twins = unet.embedding(step.timestep), dict(self.named_modules())
        for path, block in unet.named_modules():
            if isinstance(block, reference.ScaledResBlock):
                twins[f"{path}.out_layers"]._modules["0"] = conditioned(block, embedding)
            elif isinstance(block, reference.SwinBlock):
                for name, scale in (("adafm1", block.adaLN_scale_msa), ("adafm2", block.adaLN_scale_mlp)):
                    if scale is not None:
                        matrix = adafm_matrix(scale, block.window, embedding)
                        twins[f"{path}.{name}"].register_buffer("matrix", matrix)
        first = next(module for module in self.modules() if isinstance(module, SiteConv))
        first.assign(columns(first.weight.data, unet.outputs, step, self.reads_start), data_of(first.bias))
        for name in self.gains:
            self.register_buffer(name, torch.tensor(getattr(step, name), dtype=torch.float32))

    def network(self, *inputs: Tensor) -> Tensor:
        """The tensors that the first convolution reads → x0 [B, C, h, w]."""
        x, skips = torch.cat(inputs, dim=1), []
        for entry in self.input_blocks:
            x = entry(x)
            skips.append(x)
        x = self.middle_block(x)
        for entry in self.output_blocks:
            x = entry(torch.cat([x, skips.pop()], dim=1))
        result: Tensor = self.out(x)
        return result


class LrBranch(nn.Module):
    """lr [B, 3, r·h, r·w] → its features [B, F, h, w], the same for every step: DiT-SR's for faces."""

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        layers = [layer.op if isinstance(layer, reference.Down) else layer for layer in branch]
        self.feature_extractor = nn.Sequential(
            *(site(layer) if isinstance(layer, nn.Conv2d) else layer for layer in layers)
        )

    def forward(self, lr: Tensor) -> Tensor:
        result: Tensor = self.feature_extractor(lr)
        return result


class OnlyUNet(UNet):
    """z_y, noise [B, C, h, w] and lr [B, 3, h, w], or its features → x0 [B, C, h, w]. So in all steps."""

    reads_start = True

    def forward(self, z_y: Tensor, noise: Tensor, lr: Tensor) -> Tensor:
        return self.network(z_y, noise, lr)


class FirstUNet(UNet):
    """z_y, noise, the step's own noise and lr → x_{T−1}."""

    reads_start = True
    gains = ("kept", "taken", "drawn", "noise_gain")
    kept: Tensor
    taken: Tensor
    drawn: Tensor
    noise_gain: Tensor

    def forward(self, z_y: Tensor, noise: Tensor, own_noise: Tensor, lr: Tensor) -> Tensor:
        x, x0 = z_y + self.noise_gain * noise, self.network(z_y, noise, lr)
        return self.kept * x + self.taken * x0 + self.drawn * own_noise


class NextUNet(UNet):
    """x_t, the step's noise and lr → x_{t−1}."""

    gains = ("kept", "taken", "drawn")
    kept: Tensor
    taken: Tensor
    drawn: Tensor

    def forward(self, x: Tensor, own_noise: Tensor, lr: Tensor) -> Tensor:
        return self.kept * x + self.taken * self.network(x, lr) + self.drawn * own_noise


class LastUNet(UNet):
    """x_1 and lr → x0."""

    def forward(self, x: Tensor, lr: Tensor) -> Tensor:
        return self.network(x, lr)


def layers_of(unet: reference.UNetModelSwin) -> nn.ModuleDict:
    """The network's layers by its authors' names, with the folds that no timestep is needed for."""
    parts: dict[str, nn.Module] = {
        "input_blocks": nn.ModuleList(map(_layers, unet.input_blocks)),
        "middle_block": _layers(unet.middle_block),
        "output_blocks": nn.ModuleList(map(_layers, unet.output_blocks)),
        "out": nn.Sequential(unet.out[0], nn.SiLU(), site(unet.out[2])),
    }
    return nn.ModuleDict(parts)


def columns(weight: Tensor, channels: int, step: Step, reads_start: bool) -> Tensor:
    """Fold 2. weight [O, C + 3, 3, 3] of (x_t/√(κ²η + 1), lr) → of (x_t, lr), or [O, 2C + 3, 3, 3] of
    (z_y, noise, lr)."""
    latent, lr = weight[:, :channels].double() * step.input_gain, weight[:, channels:]
    noise = [(latent * step.noise_gain).float()] if reads_start else []
    return torch.cat([latent.float(), *noise, lr], dim=1)


def site(conv: nn.Module) -> SiteConv:
    assert isinstance(conv, nn.Conv2d)
    return SiteConv.from_conv(conv)


def _layers(layers: nn.Module) -> nn.Sequential:
    made: list[nn.Module] = []
    for layer in layers.children():
        match layer:
            case reference.ScaledResBlock():
                made.append(ResBlock(layer))
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
