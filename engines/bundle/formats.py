"""Codes: the range that they lie in, and their formats: what graphs store, how layer lists call it, which GPUs
multiply in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from passionsr_trt.engines.common.errors import UserError

Capability = tuple[int, int]


class CodeRange(NamedTuple):
    """Codes from `low` to `high`, both of them included; `np.clip(codes, *range)` keeps to it."""

    low: int
    high: int

    @classmethod
    def within(cls, limit: int) -> CodeRange:
        """±limit: as weights have it, so that a code's negative is a code."""
        return cls(-limit, limit)

    @classmethod
    def of_bits(cls, bits: int) -> CodeRange:
        """All signed codes of so many bits, [-2^(b-1), 2^(b-1) - 1]: as activations have it."""
        return cls(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def __str__(self) -> str:
        return f"±{self.high}" if self.low == -self.high else f"{self.low} to {self.high}"


SIGNED, UNSIGNED = CodeRange.of_bits(8), CodeRange(0, 255)  # int8, uint8
TO_UNSIGNED = UNSIGNED.low - SIGNED.low  # what a signed code grows by
FULL_RANGE = CodeRange.within(127)  # of weights
HALF_RANGE = CodeRange.within(63)  # of weights on a CPU without VNNI, whose INT8 kernels saturate


@dataclass(frozen=True)
class CodeFormat:
    """onnx_type: of a graph's codes and zero points (onnx.TensorProto.DataType). layer_type: as TensorRT's layer
    lists call a tensor of it. capability: the least compute capability that TensorRT multiplies in it on.
    half_step: how far beyond an outermost code a value still rounds to it; what lies further out is clipped.
    weights_only: activations stay float, and products are of floats.
    """

    name: str
    label: str
    onnx_type: int
    layer_type: str
    capability: Capability
    half_step: float
    weights_only: bool = False


INT8 = CodeFormat("int8", "INT8", onnx_type=3, layer_type="Int8", capability=(7, 5), half_step=0.5)
FP8 = CodeFormat("fp8", "FP8", onnx_type=17, layer_type="FP8", capability=(8, 9), half_step=16)
W8 = replace(INT8, name="w8", label="W8", weights_only=True)
W8_FP8 = replace(FP8, name="w8-fp8", label="W8-FP8", weights_only=True)
CODE_FORMATS = {entry.name: entry for entry in (INT8, FP8, W8, W8_FP8)}
PRECISIONS = {"fp32": (0, 0), "fp16": (0, 0), "bf16": (8, 0)}  # of what is not quantized, and where GPUs have it
LAYER_TYPES = {entry.layer_type for entry in CODE_FORMATS.values()}


def capability(text: str) -> Capability:
    """`8.9` → (8, 9); (0, 0) where it is none."""
    major, _dot, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def check_capabilities(name: str, capabilities: Iterable[str]) -> None:
    """UserError for a compute capability that TensorRT does not multiply in a format, or a precision, on; unknown
    ones pass.
    """
    entry = CODE_FORMATS.get(name)
    needed = PRECISIONS.get(name, (0, 0)) if entry is None else entry.capability
    for text in capabilities:
        if (0, 0) < capability(text) < needed:
            if entry is None:
                way = "`export --precision fp16`"
            else:
                way = f"`export --format {W8.name if entry.weights_only else INT8.name}`"
            raise UserError(
                f"{name.upper()} on compute capability {text}",
                f"expected {'.'.join(map(str, needed))} or newer",
                f"build the bundle that {way} makes",
            )
