"""LET: channels' scales s and shifts δ are learned, while boundaries follow the transformed range.

    x̃ = (x − δ)/s,  W̃ = W·s,  B̃ = B + W·δ

Requires the search's learners. Ensures log s of each port that may scale, and δ of each that is shifted, in units
of its channel's span; u of the port is what covers its range, u of a weight its largest.
"""

from __future__ import annotations

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.learners import learned_ports
from torch import nn


class LearnTransform:
    name = "LET"

    def steps(self, spec: QuantSpec) -> int:
        return spec.let_steps

    def begin(self, module: nn.Module) -> None:
        """Nothing: learners are where the search began them."""

    def parameters(self, module: nn.Module, spec: QuantSpec) -> list[nn.Parameter]:
        ports = learned_ports(module)
        scales = [port.log_scale for port in ports if port.may_scale]
        return scales + [port.shift_spans for port in ports if port.shifted]
