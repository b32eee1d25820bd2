"""The deployable UNet of one DDIM step: LR picture and x_t → x_{t'}, or the picture. Constants are folded.

1. The timestep: a ResBlock's addition goes into RPReLU's last bias, or a plain convolution's. Of a binary
   convolution's groups one is left.
2. RPReLU's first bias is the convolution's. What stands behind it is PReLU, then one bias, then x.
3. Binary weights are mean|W|·sign(W): sites whose codes lose nothing (export/model/signs.py).
4. CS-Fusion's two convolutions read disjoint channels of cat(h, skip) and all of them: signs are taken once, and
   one convolution with zeros in its weight stands for both; no channel is moved. The two plain ones are one,
   without zeros. What either adds of x is, together, the sum of every two neighbours.
5. 1/√C of the attention → W_q.

The sampler's arithmetic stands behind the network, the enlargement of the LR picture before it, both in float32.
Steps share all weights that no constant changed. Names of layers are the authors'.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.bidiffsr import reference
from passionsr_trt.export.families.bidiffsr.sampler import Step
from passionsr_trt.export.families.blocks import SpatialSelfAttention
from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.signs import SignConv, binarized
from passionsr_trt.export.model.sites import SiteConv, data_of
from torch import Tensor, nn

UNET_ABSORB = (
    Absorb("attn.attention.to_q", "attn.group_norm"),
    Absorb("attn.attention.to_out.0", "attn.attention.to_v", Into.ROWS),
)
Shared = dict[str, nn.Parameter]


class Signs(nn.Module):
    """PReLU(conv(sign(x + move))) of binary convolutions; x [B, C, H, W] → [B, O, H, W]. Folds 1 and 2."""

    def __init__(
        self, weight: nn.Parameter, pads: int, convs: list[reference.BinaryConv], group: int, move: Tensor
    ) -> None:
        """convs: whose rows the weight holds one after another. move: [C] of their inputs, in x's order."""
        super().__init__()
        relus = [conv.relu(group) for conv in convs]
        bias = torch.cat([relu.pr_bias0.bias.data.flatten() for relu in relus])
        self.move = constant(move.reshape(1, -1, 1, 1))
        self.conv = SignConv(weight.data, bias, pads=pads)
        self.conv.weight = weight  # one for all steps
        self.slopes = constant(torch.cat([relu.pr_prelu.weight.data for relu in relus]))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(self.conv(torch.sign(x + self.move)), self.slopes)


class BinaryConv(nn.Module):
    """x + RPReLU(conv(sign(x + move))), and what is added to the channels behind it: [C]."""

    def __init__(
        self, conv: reference.BinaryConv, group: int, shared: Shared, path: str, more: Tensor | None
    ) -> None:
        super().__init__()
        weight = shared.setdefault(path, constant(binarized(conv.binary_conv.weight.data)))
        self.signs = Signs(weight, weight.shape[2] // 2, [conv], group, move_of(conv, group))
        after = conv.relu(group).pr_bias1.bias.data
        self.after = constant(after if more is None else after + more.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.signs(x) + (x + self.after)


class Half(nn.Module):
    """norm → SiLU → convolution, and what is added to the channels behind it: [C]."""

    def __init__(self, half: reference.Half, group: int, shared: Shared, path: str, more: Tensor | None) -> None:
        super().__init__()
        self.norm = half.block[0]
        if isinstance(half.conv, reference.BinaryConv):
            self.conv: nn.Module = BinaryConv(half.conv, group, shared, f"{path}.conv", more)
            return
        site = site_of(half.conv)
        site.port.fused = True
        if more is not None:
            bias = data_of(site.bias)
            site.bias = constant(more if bias is None else bias + more)
        self.conv = site

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.silu(self.norm(x)))
        return result


class Block(nn.Module):
    """A ResBlock, and attention where there is any. x [B, C, H, W] → the same. Fold 1."""

    def __init__(self, block: reference.Block, embedding: Tensor, group: int, shared: Shared, path: str) -> None:
        super().__init__()
        inner, more = block.res_block, block.res_block.timestep_func(embedding)[0]
        self.block1 = Half(inner.block1, group, shared, f"{path}.block1", more)
        self.block2 = Half(inner.block2, group, shared, f"{path}.block2", None)
        self.attn = attention_of(block.attn) if isinstance(block.attn, reference.Attention) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attn(x + self.block2(self.block1(x)))
        return result


class Down(nn.Module):
    """Either half of the channels convolved, their sum, pixel unshuffle. [B, C, H, W] → [B, 2C, H/2, W/2]."""

    def __init__(self, down: reference.Down, group: int, shared: Shared, path: str) -> None:
        super().__init__()
        self.biconv1 = BinaryConv(binary(down.biconv1), group, shared, f"{path}.biconv1", None)
        self.biconv2 = BinaryConv(binary(down.biconv2), group, shared, f"{path}.biconv2", None)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return F.pixel_unshuffle(self.biconv1(first) + self.biconv2(second), 2)


class Up(nn.Module):
    """x convolved twice, side by side, pixel shuffle. [B, C, H, W] → [B, C/2, 2H, 2W]."""

    def __init__(self, up: reference.Up, group: int, shared: Shared, path: str) -> None:
        super().__init__()
        self.biconv1 = BinaryConv(binary(up.biconv1), group, shared, f"{path}.biconv1", None)
        self.biconv2 = BinaryConv(binary(up.biconv2), group, shared, f"{path}.biconv2", None)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.cat([self.biconv1(x), self.biconv2(x)], dim=1), 2)


class Fusion(nn.Module):
    """cat(h, skip) [B, 2C, H, W] → [B, C, H, W], binary. Fold 4."""

    def __init__(self, fusion: reference.Fusion, group: int, shared: Shared, path: str) -> None:
        super().__init__()
        convs = [binary(conv) for conv in (fusion.biconv_1, fusion.biconv_2)]
        rows = [binarized(conv.binary_conv.weight.data) for conv in convs]
        weight = shared.setdefault(path, constant(torch.cat(in_place(*rows))))
        move = rows[0].new_zeros(weight.shape[1])
        for columns, conv in zip(places(len(move)), convs, strict=True):
            move[columns] = move_of(conv, group)
        self.signs = Signs(weight, 0, convs, group, move)
        first, second = (conv.relu(group).pr_bias1.bias.data for conv in convs)
        self.after = constant(first + second)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.signs(x).chunk(2, dim=1)
        return first + second + (x.unflatten(1, (-1, 2)).sum(2) + self.after)


def places(channels: int) -> tuple[Tensor, Tensor]:
    """Which channels of cat(h, skip) CS-Fusion's first and second convolution read, in their order."""
    half = channels // 2
    even, odd = torch.arange(0, half, 2), torch.arange(1, half, 2)
    return torch.cat([odd, even + half]), torch.cat([even, odd + half])


def in_place(first: Tensor, second: Tensor) -> list[Tensor]:
    """Weights [O, C, 1, 1] of CS-Fusion's convolutions → [O, 2C, 1, 1] of cat(h, skip), zero elsewhere."""
    spread = []
    for columns, weight in zip(places(2 * first.shape[1]), (first, second), strict=True):
        wide = weight.new_zeros(len(weight), 2 * first.shape[1], 1, 1)
        wide[:, columns] = weight
        spread.append(wide)
    return spread


def plain_fusion(fusion: reference.Fusion) -> SiteConv:
    """CS-Fusion of two plain convolutions: one of cat(h, skip). Fold 4."""
    first, second = (conv for conv in (fusion.biconv_1, fusion.biconv_2) if isinstance(conv, nn.Conv2d))
    assert first.bias is not None and second.bias is not None
    wide = in_place(first.weight.data, second.weight.data)
    return SiteConv(wide[0] + wide[1], first.bias.data + second.bias.data)


class UNet(nn.Module):
    """LR picture [B, 3, h, w] in [−1, 1] and x_t [B, 3, s·h, s·w] in [0, 1]'s space → x_{t'}.

    upscale: s. shared: what steps before made of binary weights, by path; it is added to.
    """

    downs: nn.ModuleList
    mid: nn.ModuleList
    ups: nn.ModuleList
    x_gain: Tensor
    eps_gain: Tensor
    kept: Tensor
    added: Tensor
    is_last = False

    def __init__(self, unet: reference.BinaryUNet, upscale: int, step: Step, shared: Shared) -> None:
        super().__init__()
        self.upscale = upscale
        embedding, group = unet.embedding(step.timestep), unet.group(step.timestep)
        for name in ("downs", "mid", "ups"):
            layers = enumerate(unet.get_submodule(name).children())
            made = [_layer(layer, embedding, group, shared, f"{name}.{index}") for index, layer in layers]
            self.add_module(name, nn.ModuleList(made))
        norm, _swish, _dropout, conv = unet.final_conv["block"].children()
        self.final_conv = nn.Sequential(norm, nn.SiLU(), site_of(conv))
        for name in ("x_gain", "eps_gain") if self.is_last else ("x_gain", "eps_gain", "kept", "added"):
            self.register_buffer(name, torch.tensor(getattr(step, name), dtype=torch.float32))

    def condition(self, lr: Tensor) -> Tensor:
        """The authors' enlargement, OpenCV's bicubic in float, in [0, 1]'s space."""
        enlarged = F.interpolate(lr, scale_factor=float(self.upscale), mode="bicubic", align_corners=False)
        return 0.5 * enlarged + 0.5

    def network(self, condition: Tensor, x: Tensor) -> Tensor:
        """ε [B, 3, H, W]."""
        x, skips = torch.cat([condition, x], dim=1), []
        for layer in self.downs:
            x = layer(x)
            skips.append(x)
        for layer in self.mid:
            x = layer(x)
        for layer in self.ups:
            fuses = isinstance(layer, Fusion | SiteConv)
            x = layer(torch.cat([x, skips.pop()], dim=1) if fuses else x)
        result: Tensor = self.final_conv(x)
        return result

    def clean(self, x: Tensor, eps: Tensor) -> Tensor:
        """x̂."""
        return (self.x_gain * x - self.eps_gain * eps).clamp(-1, 1)

    def next(self, condition: Tensor, x: Tensor) -> Tensor:
        eps = self.network(condition, x)
        return self.kept * self.clean(x, eps) + self.added * eps

    def forward(self, lr: Tensor, x: Tensor) -> Tensor:
        return self.next(self.condition(lr), x)


class LastUNet(UNet):
    """The last step's result is the picture [B, 3, H, W] in [−1, 1], of what lies beyond [0, 1] as well."""

    is_last = True

    def next(self, condition: Tensor, x: Tensor) -> Tensor:
        return 2 * self.clean(x, self.network(condition, x)) - 1


def attention_of(attention: reference.Attention) -> SpatialSelfAttention:
    weights = attention.qkv.weight.data.flatten(1).chunk(3)
    to_q, to_k, to_v = (SimpleNamespace(weight=constant(weight), bias=None) for weight in weights)
    out = SimpleNamespace(weight=constant(attention.out.weight.data.flatten(1)), bias=attention.out.bias)
    own = SimpleNamespace(to_q=to_q, to_k=to_k, to_v=to_v, to_out=[out], heads=1, scale=len(weights[0]) ** -0.5)
    return SpatialSelfAttention(SimpleNamespace(group_norm=attention.norm, **vars(own)))


def move_of(conv: reference.BinaryConv, group: int) -> Tensor:
    """[C]."""
    return conv.move(group).bias.data.flatten()


def binary(conv: nn.Module) -> reference.BinaryConv:
    assert isinstance(conv, reference.BinaryConv)
    return conv


def site_of(conv: nn.Module) -> SiteConv:
    assert isinstance(conv, nn.Conv2d)
    return SiteConv.from_conv(conv)


def constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _layer(layer: nn.Module, embedding: Tensor, group: int, shared: Shared, path: str) -> nn.Module:
    match layer:
        case reference.Block():
            return Block(layer, embedding, group, shared, path)
        case reference.Down():
            return Down(layer, group, shared, path)
        case reference.Up():
            return Up(layer, group, shared, path)
        case reference.Fusion() if isinstance(layer.biconv_1, reference.BinaryConv):
            return Fusion(layer, group, shared, path)
        case reference.Fusion():
            return plain_fusion(layer)
    return site_of(layer)
