"""Quantize and dequantize: pure functions, symmetric, zero point 0 (the only form TensorRT takes).

    code = nearest(clamp(x / Δ, low, high)),  Q(x) = Δ · code

Rounding is to the nearest number of the format (formats.py), ties to even, as ONNX QuantizeLinear rounds and
saturates, so codes agree with the exported graph.
"""

from __future__ import annotations

import torch
from passionsr_trt.export.quantize.formats import INT8, Codes
from torch import Tensor


def quantize(x: Tensor, scale: Tensor, low: float, high: float, codes: Codes = INT8) -> Tensor:
    """Codes of `x` in x's own dtype, whole numbers or FP8's; `scale` broadcasts against `x`."""
    return codes.nearest(torch.clamp(x / scale, low, high))


def quantize_(x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """Whole codes of `x` in its own place."""
    return x.div_(scale).clamp_(low, high).round_()


def fake_quantize(x: Tensor, scale: Tensor, low: float, high: float, codes: Codes = INT8) -> Tensor:
    """Q(x) = Δ · nearest(clamp(x/Δ, low, high)), same shape and dtype as `x`."""
    return quantize(x, scale, low, high, codes) * scale


def per_channel(values: Tensor, dims: int) -> Tensor:
    """Reshape [O] so that it broadcasts along the first of `dims` dimensions."""
    return values.reshape(-1, *([1] * (dims - 1)))


def weight_codes(
    weight: Tensor, scale: Tensor, limit: float, offsets: Tensor | None = None, codes: Codes = INT8
) -> Tensor:
    """Codes of a weight [O, ...] with one scale per output channel [O], |code| ≤ limit, in the format's own dtype.

    offsets: −1, 0 or 1 for each weight, added to its nearest whole code (export/calibrate/steps/round_weights.py).
    """
    nearest = quantize(weight, per_channel(scale, weight.dim()), -limit, limit, codes)
    if offsets is not None:
        nearest = torch.clamp(nearest + offsets, -limit, limit)
    return nearest.to(codes.dtype)
