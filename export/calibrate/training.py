"""One stage of learning on one module, a part or a block of it.

The loss against the float twin: ‖O − O_q‖² / ‖O‖². Adam, cosine decay, seeded order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.compute import Compute
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


class Stage(Protocol):
    """What learns together: how many steps, what is done before them, which parameters."""

    @property
    def name(self) -> str: ...

    def steps(self, spec: QuantSpec) -> int: ...
    def begin(self, module: nn.Module) -> None: ...
    def parameters(self, module: nn.Module, spec: QuantSpec) -> list[nn.Parameter]: ...


def run_stage(
    module: nn.Module, stage: Stage, title: str, pairs: Pairs, spec: QuantSpec, compute: Compute
) -> None:
    """Learn one stage; title: of the module, which the order of its samples depends on."""
    stage.begin(module)
    parameters, steps = stage.parameters(module, spec), stage.steps(spec)
    if not steps or not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=spec.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    samples = sample_order(len(pairs.inputs), f"{spec.seed} {title}")
    title = f"{title}: {stage.name}"
    with only(parameters, module), tqdm(range(steps), desc=title, unit="step") as progress:
        for _step in progress:
            optimizer.zero_grad()
            total = 0.0
            for index in compute.shared([next(samples) for _crop in range(spec.accumulate)]):
                target = pairs.targets[index]
                error = nn.functional.mse_loss(module(*pairs.inputs[index]), target)
                loss = error / target.square().mean().clamp_min(1e-12) / spec.accumulate
                loss.backward()
                total += float(loss.detach()) * compute.size
            compute.sum_gradients(parameters)
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


@dataclass(frozen=True)
class Together:
    """Stages at once: all their parameters, for all their steps."""

    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        return "+".join(stage.name for stage in self.stages)

    def steps(self, spec: QuantSpec) -> int:
        return sum(stage.steps(spec) for stage in self.stages)

    def begin(self, module: nn.Module) -> None:
        for stage in self.stages:
            stage.begin(module)

    def parameters(self, module: nn.Module, spec: QuantSpec) -> list[nn.Parameter]:
        return [parameter for stage in self.stages for parameter in stage.parameters(module, spec)]
