"""What rounding leaves, made up for: codes stay, the rows of the last part's weights learn what they are worth.

    Ŵ = e^g·Δ·codes,  B̂ = B + b,  g and b [O] learned through the part, on what the quantized chain gives it

The last part gives what is looked at, and its inputs have the errors of all parts before it: they are made up
for as well. g goes into the scale of a row's DequantizeLinear and b into its bias: nothing is added to the engine.
In parts before it, taught by their own outputs, the same made the chain no better.
"""

from __future__ import annotations

from collections.abc import Sequence

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.calibrate.search import PortSearch
from passionsr_trt.export.calibrate.stages import Pairs, Stage, output_biases, run_stage
from passionsr_trt.export.quantize.part import Part
from torch import nn


def settles(spec: QuantSpec) -> bool:
    """True where the last part of a model does."""
    return spec.method == "learned" and spec.granularity == "module" and spec.settle_steps > 0


def settle(part: Part, spec: QuantSpec, searches: Sequence[PortSearch], pairs: Pairs) -> None:
    """Learn gains and output biases of a part in LEARN mode whose weights have their turns."""
    gains: list[nn.Parameter] = []
    for search in searches:
        port = search.port.learner
        assert isinstance(port, LearnedPort)
        for named in search.sites:
            assert isinstance(named.site.learner, LearnedWeight)
            named.site.learner.settle(port.weight(named.site.weight))
            gains.append(named.site.learner.gain_units)

    def parameters(module: nn.Module) -> list[nn.Parameter]:
        return gains + (output_biases(module) if spec.output_bias else [])

    stage = Stage("settling", spec.settle_steps, parameters, boundaries_follow=True)
    run_stage(part.module, stage, part.name, pairs, spec)
