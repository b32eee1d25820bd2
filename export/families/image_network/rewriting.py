"""A network as its authors wrote it → one whose Conv and Linear layers are sites, in a form that any picture fits.

By rules, in this order; each is exact, and the whole is proved against the original:

1. modules that a table names by their class (REPLACED) give way to one that exports for any picture;
2. a batch norm behind a convolution goes into it;
3. nearest ×2 in front of a 3×3 convolution takes the sub-pixel form (export/model/sub_pixel.py);
4. every dense convolution and every linear becomes a site. Grouped and dilated convolutions stay float.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.image_network.windows import (
    HybridBlock,
    OverlapAttention,
    PermutedAttention,
    PermutedBlock,
    RectangleAttention,
    SwinBlock,
    WindowAttention,
)
from passionsr_trt.export.families.windows import shift_mask
from passionsr_trt.export.model.sites import SiteConv, SiteLinear
from passionsr_trt.export.model.sub_pixel import SubPixelConv
from torch import Tensor, nn


class PartialConv(nn.Module):
    """The convolution of a network's first channels, beside the others as they are. x [B, C, H, W]."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.conv, self.adds, self.width = module.conv, getattr(module, "with_idt", False), module.idx

    def forward(self, x: Tensor) -> Tensor:
        own, others = x[:, : self.width], x[:, self.width :]
        mixed = self.conv(own)
        return torch.cat([mixed + own if self.adds else mixed, others], dim=1)


class DynamicSampling(nn.Module):
    """DySample's enlargement: every pixel is read where a convolution says. x [B, C, h, w] → [B, O, s·h, s·w].

    The authors' code makes positions of numbers, which no exporter takes for any picture.
    """

    init_pos: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.offset, self.scope, self.scale, self.groups = module.offset, module.scope, module.scale, module.groups
        self.end_conv = module.end_conv if module.end_convolution else nn.Identity()
        self.register_buffer("init_pos", module.init_pos)

    def forward(self, x: Tensor) -> Tensor:
        batch, _channels, height, width = x.shape
        offset = self.offset(x) * self.scope(x).sigmoid() * 0.5 + self.init_pos
        across, down = offset.chunk(2, dim=1)
        column, row = (torch.arange(side, device=x.device).to(x.dtype) + 0.5 for side in (width, height))
        across = (across + column) * 2 / width - 1
        down = (down + row[:, None]) * 2 / height - 1
        grid = [F.pixel_shuffle(axis, self.scale).flatten(0, 1) for axis in (across, down)]
        apart = x.reshape(batch * self.groups, -1, height, width)
        read = F.grid_sample(apart, torch.stack(grid, -1), "bilinear", "border", align_corners=False)
        enlarged: Tensor = self.end_conv(read.reshape(batch, -1, self.scale * height, self.scale * width))
        return enlarged


def merged_convolution(module: Any) -> nn.Module:
    """SPAN's three convolutions and a shortcut, one after training; its LeakyReLU where it has one."""
    module.update_params()
    conv: nn.Module = module.eval_conv
    return nn.Sequential(conv, nn.LeakyReLU(0.05)) if module.has_relu else conv


class MeanShift(nn.Module):
    """A 1×1 convolution of colours, computed in float32 whatever the network's precision. x [B, 3, H, W]."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.register_buffer("weight", conv.weight.data)
        self.register_buffer("bias", conv.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.float(), self.weight, self.bias)


def with_own_masks(module: Any) -> nn.Module:
    """DAT's attention: its windows lie in one half of the channels and stand in the other; masks for any size."""
    module.patches_resolution = None  # no picture's size is the one that masks are kept for
    module.calculate_mask = partial(two_masks, window=tuple(module.split_size), shift=tuple(module.shift_size))
    own: nn.Module = module
    return own


def two_masks(height: int, width: int, window: Any, shift: Any, dtype: Any = None) -> tuple[Tensor, Tensor]:
    """Of the lying windows and of the standing ones."""
    lying, standing = (shift_mask((height, width), window[::order], shift[::order]) for order in (1, -1))
    return lying.to(dtype), standing.to(dtype)


def with_positions(craft: Any) -> nn.Module:
    """CRAFT's attentions are handed their positions by the network; here each holds its own."""
    for module in craft.modules():
        if type(module).__name__ == "Attention_regular":
            side = "v" if module.idx else "h"
            module.rpe_biases = getattr(craft, f"biases_{side}")
            module.relative_position_index = getattr(craft, f"relative_position_index_{side}")
    own: nn.Module = craft
    return own


def with_window_masks(hat: Any) -> nn.Module:
    """HAT's mask, for any size."""

    def mask(size: Any, dtype: torch.dtype) -> Tensor:
        return shift_mask(size, (hat.window_size,) * 2, (hat.shift_size,) * 2).to(dtype)

    hat.calculate_mask = mask
    own: nn.Module = hat
    return own


REPLACED: dict[str, Callable[[Any], nn.Module]] = {
    "Adaptive_Spatial_Attention": with_own_masks,
    "Attention_regular": RectangleAttention,
    "CRAFT": with_positions,
    "Conv3XC": merged_convolution,
    "DySample": DynamicSampling,
    "HAB": HybridBlock,
    "HAT": with_window_masks,
    "MeanShift": MeanShift,
    "OCAB": OverlapAttention,
    "PLKConv2d": PartialConv,
    "PSA": PermutedAttention,
    "PSA_Block": PermutedBlock,
    "Spatial_Attention": RectangleAttention,
    "SwinTransformerBlock": SwinBlock,
    "WindowAttention": WindowAttention,
}


@torch.no_grad()
def as_sites(network: nn.Module) -> nn.Module:
    """Rewrite a network in place by the four rules; the root may be replaced."""
    holder = nn.ModuleDict({"network": network})
    _rewrite(holder)
    rewritten = holder["network"]
    for module in rewritten.modules():
        if type(module) is nn.Sequential:
            layers: list[Any] = list(module)[1:]  # elsewhere others may read what is changed (SPAN's blocks do)
            for layer in layers:
                if getattr(layer, "inplace", False):
                    layer.inplace = False  # in place on a slice it is a scatter in the graph
            _merge_norms(module)
            _sub_pixel(module)
    _swap(holder)
    return rewritten.eval().requires_grad_(False)


def _rewrite(holder: nn.Module) -> None:
    for name, child in list(holder.named_children()):
        replace = REPLACED.get(type(child).__name__)
        if replace is not None:
            child = replace(child)
            holder.add_module(name, child)
        _rewrite(child)


def _merge_norms(layers: nn.Sequential) -> None:
    """y = γ·(W·x + b − μ)/σ + β into W and b."""
    for index in range(1, len(layers)):
        conv, norm = layers[index - 1], layers[index]
        if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            assert norm.running_mean is not None
            gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            bias = torch.zeros_like(gain) if conv.bias is None else conv.bias.double()
            conv.weight.data = (conv.weight.double() * gain.reshape(-1, 1, 1, 1)).float()
            conv.bias = nn.Parameter(((bias - norm.running_mean.double()) * gain + norm.bias.double()).float())
            layers[index] = nn.Identity()


def _sub_pixel(layers: nn.Sequential) -> None:
    for index in range(1, len(layers)):
        before, conv = layers[index - 1], layers[index]
        doubles = (
            isinstance(before, nn.Upsample) and before.mode == "nearest" and before.scale_factor in (2, (2, 2))
        )
        if doubles and _is_dense(conv) and (conv.kernel_size, conv.padding) == ((3, 3), (1, 1)):
            layers[index - 1] = nn.Identity()
            layers[index] = SubPixelConv.of(conv.weight.data, None if conv.bias is None else conv.bias.data)


def _is_dense(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """A plain convolution that a site can be."""
    if type(layer) is not nn.Conv2d or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return False
    return layer.groups == 1 and layer.dilation == (1, 1) and layer.stride[0] == layer.stride[1]


def _swap(holder: nn.Module) -> None:
    for name, child in list(holder.named_children()):
        if _is_dense(child):
            holder.add_module(name, SiteConv.from_conv(child))
        elif type(child) is nn.Linear:
            holder.add_module(name, SiteLinear.from_linear(child))
        else:
            _swap(child)
