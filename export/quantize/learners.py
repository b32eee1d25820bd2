"""What LEARN mode asks of learners; export/calibrate has them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class PortLearner(Protocol):
    """What LEARN mode asks of a port: LET's s and δ per channel, and the quantizer of the transformed x."""

    def transform(self, x: Tensor) -> Tensor: ...
    def quantize(self, x: Tensor) -> Tensor: ...
    def weight(self, weight: Tensor) -> Tensor: ...
    def bias(self, weight: Tensor, bias: Tensor | None) -> Tensor | None: ...


class Held(Protocol):
    """What stands for a site's learners where nothing changes any more."""

    bias: Tensor | None

    def weight(self) -> Tensor: ...


class WeightLearner(Protocol):
    """What LEARN mode asks of a site: the quantized weight, and what is added to its bias."""

    @property
    def held(self) -> Held | None: ...
    def __call__(self, weight: Tensor) -> Tensor: ...
    def output_bias(self) -> Tensor: ...
