"""A network as its authors wrote it → one whose Conv and Linear layers are sites, in a form that any picture fits.

By rules, in this order; each is exact, and the whole is proved against the original:

1. modules that a table names by their class are replaced (PLAIN) or told how to make their masks (MASKS);
2. a batch norm behind a convolution goes into it;
3. nearest ×2 in front of a 3×3 convolution takes the sub-pixel form (export/quantize/sub_pixel.py);
4. every dense convolution and every linear becomes a site. Grouped and dilated convolutions stay float.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.image_network.windows import RectangleAttention, SwinBlock, shift_mask
from passionsr_trt.export.quantize.sites import SiteConv, SiteLinear
from passionsr_trt.export.quantize.sub_pixel import SubPixelConv
from torch import Tensor, nn


class PartialConv(nn.Module):
    """The convolution of a network's first channels, beside the others as they are. x [B, C, H, W]."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.conv, self.adds, self.width = module.conv, module.with_idt, module.idx

    def forward(self, x: Tensor) -> Tensor:
        own, others = x[:, : self.width], x[:, self.width :]
        mixed = self.conv(own)
        return torch.cat([mixed + own if self.adds else mixed, others], dim=1)


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


PLAIN: dict[str, Callable[[Any], nn.Module]] = {
    "Conv3XC": merged_convolution,
    "MeanShift": MeanShift,
    "PLKConv2d": PartialConv,
    "Spatial_Attention": RectangleAttention,
    "SwinTransformerBlock": SwinBlock,
}


def _dual(module: Any) -> None:
    """DAT's windows lie in one half of the channels and stand in the other; it keeps a mask for one size."""
    module.patches_resolution = None
    module.calculate_mask = partial(_two_masks, window=tuple(module.split_size), shift=tuple(module.shift_size))


def _two_masks(height: int, width: int, window: Any, shift: Any, dtype: Any = None) -> tuple[Tensor, Tensor]:
    lying, standing = (shift_mask((height, width), window[::order], shift[::order]) for order in (1, -1))
    return lying.to(dtype), standing.to(dtype)


MASKS: dict[str, Callable[[Any], None]] = {"Adaptive_Spatial_Attention": _dual}


@torch.no_grad()
def as_sites(network: nn.Module) -> nn.Module:
    """Rewrite a network in place by the four rules; the root may be replaced."""
    holder = nn.ModuleDict({"network": network})
    _rewrite(holder)
    rewritten = holder["network"]
    for module in rewritten.modules():
        if type(module) is nn.Sequential:
            _merge_norms(module)
            _sub_pixel(module)
    _swap(holder)
    return rewritten.eval().requires_grad_(False)


def _rewrite(holder: nn.Module) -> None:
    for name, child in list(holder.named_children()):
        kind = type(child).__name__
        if kind in PLAIN:
            child = PLAIN[kind](child)
            holder.add_module(name, child)
        elif kind in MASKS:
            MASKS[kind](child)
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
        if isinstance(before, nn.Upsample) and before.mode == "nearest" and before.scale_factor in (2, (2, 2)):
            if (
                type(conv) is nn.Conv2d
                and _is_dense(conv)
                and conv.kernel_size == (3, 3)
                and conv.padding == (1, 1)
            ):
                layers[index - 1] = nn.Identity()
                layers[index] = SubPixelConv.of(conv.weight.data, None if conv.bias is None else conv.bias.data)


def _is_dense(conv: nn.Conv2d) -> bool:
    square = conv.stride[0] == conv.stride[1]
    return conv.groups == 1 and conv.dilation == (1, 1) and square and conv.padding_mode == "zeros"


def _swap(holder: nn.Module) -> None:
    for name, child in list(holder.named_children()):
        if type(child) is nn.Conv2d and _is_dense(child) and not isinstance(child.padding, str):
            setattr(holder, name, SiteConv.from_conv(child))
        elif type(child) is nn.Linear:
            setattr(holder, name, SiteLinear.from_linear(child))
        else:
            _swap(child)
