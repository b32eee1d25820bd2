"""Convolutions of signs with signs, as binary networks have them: exact in the codes of any format.

    y = W·x + b,  x ∈ {−1, 0, 1},  W ∈ {−s, 0, s} with one s > 0 for every row

Codes are −1, 0 and 1, Δ of x is 1, Δ of a row is its s: nothing is calibrated and nothing is lost. Zero padding
has the code 0. Products of such codes never saturate what CPUs without VNNI add them in.
"""

from __future__ import annotations

import torch
from passionsr_trt.export.model.sites import Scales, SiteConv
from torch import Tensor

SMALLEST = 1e-12  # of a row of zeros


class SignConv(SiteConv):
    """Conv2d whose input holds signs. weight [O, C, kh, kw]: ±s of its row, or 0."""

    def known_scales(self) -> Scales:
        rows = self.weight.data.float().flatten(1).abs().amax(1).clamp_min(SMALLEST)
        return Scales(torch.ones((), device=rows.device), rows)


def binarized(weight: Tensor) -> Tensor:
    """mean|W|·sign(W), the mean over each row: what a binary convolution [O, C, kh, kw] computes with."""
    return weight.abs().mean((1, 2, 3), keepdim=True) * weight.sign()
