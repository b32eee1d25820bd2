"""What a calibration keeps of a part that was searched or learned."""

from __future__ import annotations

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.calibrate.search import PortSearch
from passionsr_trt.export.quantize.quantizer import pack_turns
from torch import Tensor


@torch.no_grad()
def learned_tensors(searches: list[PortSearch], spec: QuantSpec) -> dict[str, Tensor]:
    """What the calibration keeps: s, δ, Δ of ports; Δ, turns, gain and bias of weights, all as transformed."""
    tensors: dict[str, Tensor] = {}
    for search in searches:
        learner = search.port.learner
        assert isinstance(learner, LearnedPort)
        tensors[f"{search.name}.activation_scale"] = learner.step().clone()
        anchored = learner.anchor * learner.step()
        if bool((learner.s() != 1).any()) or learner.shifted or learner.anchor:
            tensors[f"{search.name}.let_scale"] = learner.s().clone()
            tensors[f"{search.name}.let_shift"] = learner.delta() + learner.s() * anchored
        if learner.anchor:
            tensors[f"{search.name}.let_anchor"] = torch.full(
                (), learner.anchor, dtype=torch.int32, device=anchored.device
            )
        for named in search.sites:
            assert isinstance(named.site.learner, LearnedWeight)
            weight = learner.weight(named.site.weight)
            boundary = named.site.learner.boundary(weight)
            tensors[f"{named.name}.weight_scale"] = (boundary / spec.weight_code_max).clone()
            bias = named.site.learner.output_bias()
            if bool(bias.any()):
                tensors[f"{named.name}.output_bias"] = bias
            if bool(named.site.learner.gain_units.any()):
                tensors[f"{named.name}.output_gain"] = named.site.learner.output_gain()
            if named.site.learner.turns is not None:
                tensors[f"{named.name}.weight_turns"] = pack_turns(named.site.learner.turns)
    return tensors
