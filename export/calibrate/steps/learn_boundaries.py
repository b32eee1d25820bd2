"""LBQ: boundaries u of ports and of weights' rows are learned, and what is added to the biases of sites.

    Q(x) = Δ·clamp(round(x/Δ), low, high), Δ = u/high;  ∂Q/∂u = code/high − x/u inside, code/high outside

Requires the search's learners, with or without LET learned. Ensures log u of each, from where it stood; a site
that has a bias learns what is added to it, which costs an engine nothing.
"""

from __future__ import annotations

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.learners import LearnedPort, LearnedSite, learned_ports, learned_sites
from torch import nn


class LearnBoundaries:
    name = "LBQ"

    def steps(self, spec: QuantSpec) -> int:
        return spec.lbq_steps

    @torch.no_grad()
    def begin(self, module: nn.Module, _spec: QuantSpec) -> None:
        """Boundaries stop following and become parameters."""
        for site, learner in learned_sites(module):
            port: LearnedPort = site.port.quantizer
            learner.freeze_boundary(port.weight(site.weight))
        for port in learned_ports(module):
            port.freeze_boundary()

    def parameters(self, module: nn.Module, spec: QuantSpec) -> list[nn.Parameter]:
        kinds = (LearnedPort, LearnedSite)
        boundaries = [learner.log_boundary for learner in module.modules() if isinstance(learner, kinds)]
        return boundaries + [
            learner.bias_units for site, learner in learned_sites(module) if site.bias is not None
        ]
