"""Bias correction: what rounding leaves is made up for; codes stay, rows learn what they are worth.

    Ŵ = e^g·Δ·codes,  B̂ = B + b,  g and b [O] learned through the part, on what the quantized chain gives it

Requires the learners, and the weights' rounding offsets. Ensures a gain and a bias of each row of the last part,
which gives what is looked at: its inputs have the errors of all parts before it, and they are made up for as well.
g goes into the scale of a row's DequantizeLinear and b into its bias: nothing is added to the engine. In parts
before it, taught by their own outputs, the same made the chain no better. Not block by block.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.learners import LearnedPort, LearnedSite
from passionsr_trt.export.calibrate.trainer import PartTrainer
from passionsr_trt.export.model.devices import HOST
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.sites import Site
from passionsr_trt.export.quantize.grids import per_channel, weight_codes
from passionsr_trt.export.quantize.values import PartQuant, SiteQuant
from torch import Tensor, nn

GAIN_UNIT = 0.02  # of g: one step moves all of a row's weights alike


class CorrectedSite(nn.Module):
    """A weight whose codes stay; its rows' gains, and its bias, which goes on from where the learner left it."""

    weight: Tensor
    unit: Tensor

    @torch.no_grad()
    def __init__(self, site: Site, quant: SiteQuant, port: LearnedPort, learner: LearnedSite) -> None:
        super().__init__()
        exact, offsets = port.weight(site.weight), quant.rounding_offsets(site.weight.shape)
        codes = weight_codes(exact, quant.scale, learner.limit, offsets).to(exact.dtype)
        self.register_buffer("weight", codes.mul_(per_channel(quant.scale, exact.dim())))
        self.register_buffer("unit", learner.unit)
        self.bias_units = learner.bias_units
        self.gain_units = nn.Parameter(torch.zeros_like(learner.bias_units))

    def gain(self) -> Tensor:
        """[O], what a row of codes is multiplied with beside Δ."""
        return torch.exp(GAIN_UNIT * self.gain_units)

    def added_bias(self) -> Tensor:
        return self.bias_units * self.unit

    def forward(self, site: Site) -> tuple[Tensor, Tensor | None]:
        port: LearnedPort = site.port.quantizer
        bias = port.bias(site.weight, site.bias)
        weight = self.weight * per_channel(self.gain(), self.weight.dim())
        return weight, bias if bias is None or site.bias is None else bias + self.added_bias()

    @torch.no_grad()
    def quant(self, before: SiteQuant) -> SiteQuant:
        gain = self.gain() if bool(self.gain_units.any()) else None
        bias = self.added_bias() if bool(self.bias_units.any()) else None
        return replace(before, gain=gain, bias=bias)


class BiasCorrection:
    """The stage that learns gains and biases."""

    name = "bias correction"

    def steps(self, spec: QuantSpec) -> int:
        return spec.correction_steps

    def begin(self, module: nn.Module, _spec: QuantSpec) -> None:
        """Nothing: codes are what they are."""

    def parameters(self, module: nn.Module, spec: QuantSpec) -> list[nn.Parameter]:
        sites = [inner for inner in module.modules() if isinstance(inner, Site)]
        corrected = [(site, site.quantizer) for site in sites if isinstance(site.quantizer, CorrectedSite)]
        biases = [own.bias_units for site, own in corrected if site.bias is not None]
        return [own.gain_units for _site, own in corrected] + biases


def correct_bias(trainer: PartTrainer, quant: PartQuant) -> PartQuant:
    """The last part's rows with their gains and biases."""
    spec = trainer.spec
    if not trainer.is_last or spec.granularity != "module" or not spec.correction_steps:
        return quant
    corrected = {}
    for group in trainer.groups.values():
        for named in group:
            site, own = named.site, quant.sites[named.name].on(named.site.weight.device)
            corrected[named.name] = CorrectedSite(site, own, site.port.quantizer, site.quantizer)
    by_site = {named.site: corrected[named.name] for group in trainer.groups.values() for named in group}
    with attached(by_site), trainer.recomputing_blocks():
        trainer.run(trainer.part.module, BiasCorrection(), trainer.part.name, trainer.pairs)
    rows = {name: site.quant(quant.sites[name]) for name, site in corrected.items()}
    return replace(quant, sites={name: row.on(HOST) for name, row in rows.items()})
