"""Quantize and dequantize: pure functions, symmetric, zero point 0 (the only form TensorRT takes).

    code = clamp(round(x / Δ), low, high),  Q(x) = Δ · code

Rounding is to the nearest even, as ONNX QuantizeLinear rounds, so codes agree with the exported graph.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantize(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Integer codes of `x` in x's own dtype; `scale` broadcasts against `x`."""
    return torch.clamp(torch.round(x / scale), low, high)


def fake_quantize(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Q(x) = Δ · clamp(round(x/Δ), low, high), same shape and dtype as `x`."""
    return quantize(x, scale, low, high) * scale


def per_channel(values: Tensor, dims: int) -> Tensor:
    """Reshape [O] so that it broadcasts along the first of `dims` dimensions."""
    return values.reshape(-1, *([1] * (dims - 1)))


def weight_codes(weight: Tensor, scale: Tensor, limit: int) -> Tensor:
    """int8 codes of a weight [O, ...] with one scale per output channel [O], |code| ≤ limit."""
    return quantize(weight, per_channel(scale, weight.dim()), -limit, limit).to(torch.int8)
