"""Weights that nothing changes any more, quantized once: a byte each, not anew in every pass of a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.calibrate.scratch import Scratch
from passionsr_trt.export.calibrate.search import PortSearch
from passionsr_trt.export.quantize.quantizer import per_channel, quantize_
from passionsr_trt.export.quantize.sites import Site
from torch import Tensor, nn


class HeldWeight(nn.Module):
    """Codes of W̃ [O, ...], Δ [O] and the bias of one site, as its learners leave them."""

    codes: Tensor
    step: Tensor
    bias: Tensor | None

    def __init__(self, site: Site, port: LearnedPort, learner: LearnedWeight, scratch: Scratch) -> None:
        super().__init__()
        self.limit, self.scratch = learner.limit, scratch
        self.register_buffer("bias", site.effective_bias())
        (room,) = scratch.take([site.weight.shape], site.weight.device)
        port.weight(site.weight, out=room)
        self.register_buffer("step", per_channel(learner.boundary(room) / self.limit, room.dim()))
        self.register_buffer("codes", quantize_(room, self.step, -self.limit, self.limit).to(torch.int8))
        if learner.turns is not None:
            self.turn(learner.turns)

    def turn(self, turns: Tensor) -> None:
        """Add the turns of codes that were rounded otherwise."""
        wider = self.codes.to(torch.int16).add_(turns)  # 127 and a turn of 1 are no int8
        self.codes.copy_(wider.clamp_(-self.limit, self.limit))

    def weight(self) -> Tensor:
        """Δ·codes, until the next one is asked for."""
        (room,) = self.scratch.take([self.codes.shape], self.codes.device)
        return room.copy_(self.codes).mul_(self.step)


@contextmanager
@torch.no_grad()
def holding(searches: Sequence[PortSearch]) -> Iterator[None]:
    """Every learned weight of a part in LEARN mode held while the context lasts; nothing can be learned then."""
    scratch = Scratch()
    learners: list[LearnedWeight] = []
    try:
        for search in searches:
            port = search.port.learner
            assert isinstance(port, LearnedPort)
            for named in search.sites:
                learner = named.site.learner
                assert isinstance(learner, LearnedWeight)
                learner.held = HeldWeight(named.site, port, learner, scratch)
                learners.append(learner)
        yield
    finally:
        for learner in learners:
            learner.held = None
