"""LET: channels' scales s and shifts δ are learned, while boundaries follow the transformed range.

    x̃ = (x − δ)/s,  W̃ = W·s,  B̃ = B + W·δ

Requires the search's learners. Ensures log s of each port that may scale, and δ of each that is shifted, in units
of its channel's span; u of the port is what covers its range, u of a weight its largest.

With drawn pictures among the crops ranges are not covered whatever it costs: u stays, so that s·u, each channel's
own boundary, is learned on what both kinds lose by it; a port that may not scale learns u.
"""

from __future__ import annotations

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.learners import learned_ports
from torch import nn


class LearnTransform:
    name = "LET"

    def steps(self, spec: QuantSpec) -> int:
        return spec.let_steps

    def begin(self, module: nn.Module, spec: QuantSpec) -> None:
        """With drawn pictures u stays where the search put it."""
        for port in learned_ports(module) if spec.drawn_weight else ():
            port.freeze_boundary()

    def parameters(self, module: nn.Module, spec: QuantSpec) -> list[nn.Parameter]:
        ports = learned_ports(module)
        scales = [port.log_scale for port in ports if port.may_scale]
        boundaries = [port.log_boundary for port in ports if spec.drawn_weight and not port.may_scale]
        return scales + boundaries + [port.shift_spans for port in ports if port.shifted]
