"""The stages of DQC on one module, a part or a block of it: LET with boundaries that follow, then LBQ.

The loss against the float twin: ‖O − O_q‖² / ‖O‖². Adam, cosine decay, seeded order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.distributed import shared, size, sum_gradients
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.quantize.sites import Site
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

S = TypeVar("S", covariant=True)


class Samples(Protocol[S]):
    """A list, or anything that reads one sample at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> S: ...


@dataclass(frozen=True)
class Pairs:
    """Inputs of the quantized module, and what its float twin gives. One crop each."""

    inputs: Samples[tuple[Tensor, ...]]
    targets: Samples[Tensor]


@dataclass(frozen=True)
class Stage:
    name: str
    steps: int
    parameters: Callable[[nn.Module], list[nn.Parameter]]
    boundaries_follow: bool


def stages(spec: QuantSpec) -> list[Stage]:
    """LET then LBQ; both at once where the spec is not `staged`."""

    def let(module: nn.Module) -> list[nn.Parameter]:
        ports = learned_ports(module)
        found = [port.log_scale for port in ports if port.may_scale]
        return found + [port.shift_spans for port in ports if port.shifted]

    def lbq(module: nn.Module) -> list[nn.Parameter]:
        return boundaries(module) + (output_biases(module) if spec.output_bias else [])

    if not spec.staged:
        both = spec.let_steps + spec.lbq_steps
        return [Stage("LET+LBQ", both, lambda module: let(module) + lbq(module), False)]
    return [Stage("LET", spec.let_steps, let, True), Stage("LBQ", spec.lbq_steps, lbq, False)]


def learned_ports(module: nn.Module) -> list[LearnedPort]:
    return [found for found in module.modules() if isinstance(found, LearnedPort)]


def learners_of(part: nn.Module) -> nn.ModuleList:
    """Everything that learns, in module order: what is saved and restored."""
    return nn.ModuleList(module for module in part.modules() if isinstance(module, (LearnedPort, LearnedWeight)))


def boundaries(module: nn.Module) -> list[nn.Parameter]:
    kinds = (LearnedPort, LearnedWeight)
    return [found.log_boundary for found in module.modules() if isinstance(found, kinds)]


def output_biases(module: nn.Module) -> list[nn.Parameter]:
    """Of sites that have a bias: there it costs nothing."""
    sites = [found for found in module.modules() if isinstance(found, Site) and found.bias is not None]
    return [site.learner.bias_units for site in sites if isinstance(site.learner, LearnedWeight)]


@torch.no_grad()
def freeze_boundaries(module: nn.Module) -> None:
    """Boundaries stop following and become parameters."""
    for site in module.modules():
        if isinstance(site, Site) and isinstance(site.learner, LearnedWeight):
            assert isinstance(site.port.learner, LearnedPort)
            site.learner.freeze_boundary(site.port.learner.weight(site.weight))
    for port in learned_ports(module):
        port.freeze_boundary()


def run_stage(module: nn.Module, stage: Stage, title: str, pairs: Pairs, spec: QuantSpec) -> None:
    """Learn one stage."""
    if not stage.boundaries_follow:
        freeze_boundaries(module)
    parameters = stage.parameters(module)
    if not stage.steps or not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=spec.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.steps)
    samples = sample_order(len(pairs.inputs), f"{spec.seed} {title}")
    title = f"{title}: {stage.name}"
    with only(parameters, module), tqdm(range(stage.steps), desc=title, unit="step") as progress:
        for _step in progress:
            optimizer.zero_grad()
            total = 0.0
            for index in shared([next(samples) for _crop in range(spec.accumulate)]):
                target = pairs.targets[index]
                error = nn.functional.mse_loss(module(*pairs.inputs[index]), target)
                loss = error / target.square().mean().clamp_min(1e-12) / spec.accumulate
                loss.backward()
                total += float(loss.detach()) * size()
            sum_gradients(parameters)
            optimizer.step()
            schedule.step()
            psnr = 10 * math.log10(float((target.max() - target.min()) ** 2) / max(float(error.detach()), 1e-20))
            progress.set_postfix_str(f"loss {total:.2e}, {psnr:.1f} dB to float")


@contextmanager
def only(parameters: Sequence[nn.Parameter], module: nn.Module) -> Iterator[None]:
    """While it lasts no other parameter of the module gets gradients: what nobody takes is not computed."""
    chosen = set(map(id, parameters))
    others = [found for found in module.parameters() if found.requires_grad and id(found) not in chosen]
    for found in others:
        found.requires_grad_(False)
    try:
        yield
    finally:
        for found in others:
            found.requires_grad_(True)


def sample_order(count: int, name: str) -> Iterator[int]:
    """Endless permutations of the samples; a stage that is run again sees the same ones."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


@contextmanager
def recomputing(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """While it lasts blocks keep only their inputs for the backward pass: less memory, a third slower."""
    try:
        for block in blocks:
            block.__dict__["forward"] = partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
