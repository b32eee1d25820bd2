"""Nearest ×2 in front of a 3×3 convolution, in sub-pixel form: exact, 4 multiply-accumulates for 9.

    nearest ×2 → Conv 3×3 C→O, pad 1   =   Conv 2×2 C→4O, pad 1 → DepthToSpace(2, DCR) → one pixel off every side

Each of the four phases of the enlarged picture is a 2×2 convolution of the small one whose taps are sums of the
nine. With q the window's position, along rows and along columns alike:

| phase                | x[q−1]  | x[q]    |
| -------------------- | ------- | ------- |
| odd, row 2q − 1      | k0 + k1 | k2      |
| even, row 2q         | k0      | k1 + k2 |

The enlarged tensor is never written, and every phase has weight scales of its own. An enlargement that is not
×2 nearest in front of such a convolution stays what it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from passionsr_trt.export.model.proof import prove
from passionsr_trt.export.model.sites import SiteConv
from torch import Tensor, nn

SUMS = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], dtype=torch.float64)  # phase, tap, k


class SubPixelConv(SiteConv):
    """x [B, C, h, w] → [B, O, 2h, 2w]. weight [4O, C, 2, 2]: O rows of odd-odd, odd-even, even-odd, even-even."""

    phases = 4
    macs_saved = 9 / 4

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> SubPixelConv:
        """The form of a 3×3 convolution, weight [O, C, 3, 3], with padding 1; proved, borders included."""
        sums = SUMS.to(weight.device)
        taps = torch.einsum("rsj,uvk,ocjk->ruocsv", sums, sums, weight.double())
        site = cls(taps.flatten(0, 2).float(), None if bias is None else bias.repeat(cls.phases), pads=1)
        x = torch.randn(1, weight.shape[1], 3, 4, generator=torch.Generator().manual_seed(0)).to(weight.device)
        enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
        prove("sub-pixel form", F.conv2d(enlarged, weight, bias, padding=1), site(x))
        return site

    def operation(self, x: Tensor) -> Tensor:
        phases = super().operation(x)
        batch, rows, height, width = phases.shape
        channels = rows // self.phases
        if torch.onnx.is_in_onnx_export():
            pixels = torch.onnx.ops.symbolic(
                "DepthToSpace",
                (phases,),
                attrs={"blocksize": 2, "mode": "DCR"},
                dtype=phases.dtype,
                shape=(batch, channels, 2 * height, 2 * width),
            )
        else:
            pixels = F.pixel_shuffle(phases.unflatten(1, (self.phases, channels)).transpose(1, 2).flatten(1, 2), 2)
        return pixels[:, :, 1:-1, 1:-1]

    def per_row(self, values: Tensor) -> Tensor:
        """[O] of the convolution as written → [4O], one for every row."""
        return values.repeat(self.phases)


class Nearest2x(nn.Module):
    """x [B, C, h, w] → [B, C, 2h, 2w]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def in_sub_pixel_form(layers: nn.ModuleDict) -> nn.ModuleDict:
    """Layers that run one after another; a Nearest2x and a 3×3 convolution behind it become one of its name."""
    result = nn.ModuleDict()
    for name, layer in layers.items():
        before = list(result)[-1:]
        if before and isinstance(result[before[0]], Nearest2x) and isinstance(layer, SiteConv):
            if (layer.weight.shape[2:], layer.stride, layer.pads) == ((3, 3), 1, (1,) * 4):
                del result[before[0]]
                layer = SubPixelConv.of(layer.weight.data, None if layer.bias is None else layer.bias.data)
        result[name] = layer
    return result
