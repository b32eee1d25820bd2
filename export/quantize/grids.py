"""The numbers that codes stand for, before the scale: x ≈ Δ·code.

| format | codes                                        | rounding                | Δ of a boundary u |
| ------ | -------------------------------------------- | ----------------------- | ----------------- |
| INT8   | −128 … 127 (fewer below 8 bits)              | nearest, ties to even   | u/127             |
| FP8    | E4M3: 3 bits of mantissa, 2⁻⁹ … 448, no ∞    | nearest, ties to even   | u/448             |
| W8     | INT8's, of weights alone                     | nearest, ties to even   | u/127             |
| W8-FP8 | FP8's, of weights alone                      | nearest, ties to even   | u/448             |

Quantizer and exporter ask the same object. Another format is another row here and in engines/bundle/formats.py.

    code = nearest(clamp(x / Δ, low, high)),  Q(x) = Δ · code

Symmetric, zero point 0 (the only form TensorRT takes). Rounding is as ONNX QuantizeLinear rounds and saturates, so
codes agree with the exported graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from passionsr_trt.engines.bundle import formats
from passionsr_trt.engines.bundle.formats import CodeFormat
from passionsr_trt.engines.bundle.spec import QuantSpec
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """low, high: the outermost finite numbers. info: how graphs and layer lists name the format."""

    info: CodeFormat
    dtype: torch.dtype
    low: float
    high: float

    @property
    def are_floats(self) -> bool:
        return self.dtype.is_floating_point

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest numbers of the format, in x's dtype; x lies within [low, high] or is not a number."""
        return x.to(self.dtype).to(x.dtype) if self.are_floats else torch.round(x)


INT8_CODES = Codes(formats.INT8, torch.int8, -128, 127)
FP8_CODES = Codes(formats.FP8, torch.float8_e4m3fn, -448, 448)
W8_CODES, W8_FP8_CODES = replace(INT8_CODES, info=formats.W8), replace(FP8_CODES, info=formats.W8_FP8)
CODES = {entry.info.name: entry for entry in (INT8_CODES, FP8_CODES, W8_CODES, W8_FP8_CODES)}


@dataclass(frozen=True)
class Grid:
    """The codes that are used: of activations from low to high, of weights from −limit to limit."""

    codes: Codes
    low: float
    high: float
    limit: float

    @classmethod
    def of(cls, spec: QuantSpec, codes: Codes = INT8_CODES) -> Grid:
        """All of the format's, or the whole numbers of a spec; fewer bits are fewer of them."""
        if codes.are_floats:
            return cls(codes, codes.low, codes.high, codes.high)
        return cls(codes, *spec.activation_codes, spec.weight_code_max)


def quantize(x: Tensor, scale: Tensor, low: float, high: float, codes: Codes = INT8_CODES) -> Tensor:
    """Codes of `x` in x's own dtype, whole numbers or FP8's; `scale` broadcasts against `x`."""
    return codes.nearest(torch.clamp(x / scale, low, high))


def quantize_(x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """Whole codes of `x` in its own place."""
    return x.div_(scale).clamp_(low, high).round_()


def fake_quantize(x: Tensor, scale: Tensor, low: float, high: float, codes: Codes = INT8_CODES) -> Tensor:
    """Q(x) = Δ · nearest(clamp(x/Δ, low, high)), same shape and dtype as `x`."""
    return quantize(x, scale, low, high, codes) * scale


def per_channel(values: Tensor, dims: int) -> Tensor:
    """Reshape [O] so that it broadcasts along the first of `dims` dimensions."""
    return values.reshape(-1, *([1] * (dims - 1)))


def weight_codes(
    weight: Tensor, scale: Tensor, limit: float, offsets: Tensor | None = None, codes: Codes = INT8_CODES
) -> Tensor:
    """Codes of a weight [O, ...] with one scale per output channel [O], |code| ≤ limit, in the format's own dtype.

    offsets: −1, 0 or 1 for each weight, added to its nearest whole code (export/calibrate/steps/round_weights.py).
    """
    nearest = quantize(weight, per_channel(scale, weight.dim()), -limit, limit, codes)
    if offsets is not None:
        nearest = torch.clamp(nearest + offsets, -limit, limit)
    return nearest.to(codes.dtype)
