"""Block by block: the same stages on one ResBlock or transformer block at a time.

Each block sees what the quantized blocks before it give and is taught by its float twin. Memory is one
block's: its inputs and targets are kept on disk (placement.py: on a GPU, where they fit).

Which blocks learn, in which order, and how long that will take. A block costs the error at the part's output with
this block alone quantized, as the search left it, in parts of the output's energy.
1. The costliest FIRST of a part's blocks learn first, by their costs, so that a run that is stopped has done most
   of what it can;
2. the others follow in the order in which they run;
3. a spec's `block_share` ends it earlier: blocks that cost less keep what the search found.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.export.calibrate.compute import Compute
from passionsr_trt.export.calibrate.learners import LearnedPort, LearnedSite, Paused
from passionsr_trt.export.calibrate.placement import Placement, Spill
from passionsr_trt.export.model.devices import HOST
from passionsr_trt.export.model.hooks import attached, hooked
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import Port, Site
from torch import Tensor, nn

FIRST = 0.2
STEP_PASSES = 4  # a step of learning, in forward passes: what the first projection rests on
Inputs = tuple[Tensor, ...]
S = TypeVar("S", covariant=True)


class Samples(Protocol[S]):
    """A list, or anything that reads one sample at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> S: ...


@dataclass(frozen=True)
class Pairs:
    """Inputs of the quantized module, and what its float twin gives. One crop each.

    drawn: of each whether calibration drew it; empty where all are the user's. per_picture: crops of each, small
    ones where there are several.
    """

    inputs: Samples[Inputs]
    targets: Samples[Tensor]
    drawn: Sequence[bool] = ()
    per_picture: int = 1

    @property
    def kinds(self) -> tuple[list[int], list[int]]:
        """The crops of the user's pictures, and the drawn ones."""
        marks = self.drawn or [False] * len(self.inputs)
        own, drawn = ([index for index, mark in enumerate(marks) if mark is kind] for kind in (False, True))
        return own, drawn


@dataclass(frozen=True)
class AsInputs:
    """Tensors as the inputs of a block, which takes one, and with each whatever else it is given (sizes)."""

    tensors: Spill
    others: list[tuple[Any, ...]]

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int, /) -> Inputs:
        return (self.tensors[index], *self.others[index])


def outermost_blocks(part: Part) -> dict[nn.Module, str]:
    """The part's outermost blocks, and sites outside of any, with their paths."""
    names: dict[nn.Module, str] = {}
    inside: set[nn.Module] = set()
    kinds: tuple[type[nn.Module], ...] = (*part.blocks, Site)
    for name, module in part.module.named_modules():
        if module not in inside and isinstance(module, kinds):
            names[module] = name
            inside.update(module.modules())
    return names


def blocks_in_order(part: Part, inputs: Inputs) -> list[tuple[str, nn.Module]]:
    """The same in the order in which they run."""
    names = outermost_blocks(part)
    order: list[tuple[str, nn.Module]] = []

    def note(module: nn.Module, _args: object) -> None:
        order.append((names[module], module))

    with hooked(module.register_forward_pre_hook(note) for module in names), torch.no_grad():
        part.module(*inputs)
    return order


def paused(module: nn.Module) -> AbstractContextManager[None]:
    """A module that learns, as the float model runs it, while the context lasts."""
    kinds = (LearnedPort, LearnedSite)
    users = (inner for inner in module.modules() if isinstance(inner, Site | Port))
    return attached({user: Paused(user.quantizer) for user in users if isinstance(user.quantizer, kinds)})


def resumed(module: nn.Module) -> AbstractContextManager[None]:
    """Within `paused`: a module of it learns all the same."""
    users = (inner for inner in module.modules() if isinstance(inner, Site | Port))
    return attached({user: user.quantizer.learner for user in users if isinstance(user.quantizer, Paused)})


@contextmanager
def block_pairs(
    part: Part, block: nn.Module, title: str, inputs: tuple[Samples[Inputs], Samples[Inputs]], compute: Compute
) -> Iterator[Pairs]:
    """What one block is to learn from, kept where it fits while the context lasts.

    inputs: the quantized part's and its float twin's.
    """
    quantized, floats = inputs
    placement = Placement.measured(floats[0][0].device)
    with temporary_folder() as folder:
        given, targets = (Spill(folder / name, placement) for name in ("inputs", "targets"))
        others: list[tuple[Any, ...]] = []
        with paused(part.module):
            after = compute.in_turn(len(floats), lambda index: run_until(part, block, floats[index], before=False))
            for (target,) in Bar(after, desc=f"{title}: targets", total=len(floats), leave=False):
                targets.append(target)
        before = compute.in_turn(
            len(quantized), lambda index: run_until(part, block, quantized[index], before=True)
        )
        for x, *more in Bar(before, desc=f"{title}: inputs", total=len(quantized), leave=False):
            given.append(x)
            others.append(tuple(more))
        yield Pairs(AsInputs(given, others), targets)


class _Reached(Exception):
    def __init__(self, values: tuple[Any, ...]) -> None:
        super().__init__()
        self.values = values


@torch.no_grad()
def run_until(part: Part, block: nn.Module, inputs: Inputs, before: bool) -> tuple[Any, ...]:
    """Run a part as far as a block; what the block is given (`before`), or its output alone."""

    def stop_before(_module: nn.Module, args: tuple[Any, ...]) -> NoReturn:
        raise _Reached(args)

    def stop_after(_module: nn.Module, _args: object, output: Tensor) -> NoReturn:
        raise _Reached((output,))

    if before:
        handle = block.register_forward_pre_hook(stop_before)
    else:
        handle = block.register_forward_hook(stop_after)
    try:
        part.module(*inputs)
    except _Reached as reached:
        return reached.values
    finally:
        handle.remove()
    raise AssertionError("the block was not reached")


@torch.no_grad()
def block_costs(
    part: Part, blocks: Mapping[str, nn.Module], crops: Sequence[Inputs], compute: Compute
) -> dict[str, float]:
    """What each block's quantization costs, on the float part's inputs. Learners are attached."""

    def of_crop(index: int) -> tuple[Tensor]:
        inputs = crops[index]
        with paused(part.module):
            exact: Tensor = part.module(*inputs)
            energy = float(exact.square().sum()) + 1e-12
            costs = []
            for block in Bar(blocks.values(), f"{part.name}: what blocks cost", unit="block", leave=False):
                with resumed(block):
                    costs.append(float((part.module(*inputs) - exact).square().sum()) / energy)
        return (torch.tensor(costs, dtype=torch.float64, device=HOST),)

    total = torch.zeros(len(blocks), dtype=torch.float64, device=HOST)
    for (errors,) in compute.in_turn(len(crops), of_crop):
        total += errors
    return dict(zip(blocks, total.tolist(), strict=True))


def learning_order(costs: Mapping[str, float], share: float) -> list[str]:
    """Blocks that learn, in the order in which they do; costs: in the order in which they run."""
    ranked = sorted(costs, key=lambda path: -costs[path])
    chosen = ranked[: math.ceil(share * len(costs))]
    first = chosen[: math.ceil(FIRST * len(costs))]
    return first + [path for path in costs if path in chosen and path not in first]


@dataclass(frozen=True)
class BlockTiming:
    """Seconds of one pass through a part when a block begins, and when it ends."""

    begins: float
    ends: float


@torch.no_grad()
def block_timings(part: Part, blocks: Mapping[str, nn.Module], inputs: Inputs) -> dict[str, BlockTiming]:
    """When each block begins and ends in a pass, by its path."""
    begun: dict[str, float] = {}
    timings: dict[str, BlockTiming] = {}
    device = inputs[0].device

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.monotonic()

    def begin(path: str, *_given: object) -> None:
        begun[path] = now()

    def end(path: str, *_given: object) -> None:
        timings[path] = BlockTiming(begun[path] - start, now() - start)

    before = (block.register_forward_pre_hook(partial(begin, path)) for path, block in blocks.items())
    after = (block.register_forward_hook(partial(end, path)) for path, block in blocks.items())
    with hooked(chain(before, after)):
        start = now()
        part.module(*inputs)
    return timings


class Schedule:
    """How far a part's blocks are, and how long the others will take, by what was measured so far.

    A block takes its steps and the passes that give what it learns from, as `block_timings` weighs them; how long
    that really is, the blocks that are done tell.
    """

    def __init__(
        self,
        part: str,
        spec: QuantSpec,
        times: Mapping[str, BlockTiming],
        crops: int,
        order: Sequence[str],
        left: Sequence[str],
        compute: Compute,
    ) -> None:
        """crops: pictures that blocks learn from; left: blocks that are still to be learned, of `order`."""
        self.part, self.count, self.left = part, len(order), list(left)
        self.compute, self.steps = compute, spec.let_steps + spec.lbq_steps
        self.expected = {path: self._expected(times[path], spec, crops) for path in left}
        self.spent = self.foreseen = self.begun = self.learning = 0.0

    def _expected(self, timing: BlockTiming, spec: QuantSpec, crops: int) -> float:
        """Seconds of a block, before any of them is done."""
        steps = self.steps * spec.accumulate * STEP_PASSES * (timing.ends - timing.begins)
        return (steps + crops * (timing.begins + timing.ends)) / self.compute.size

    def begin(self) -> None:
        """A block begins to gather what it learns from."""
        self.begun = time.monotonic()

    def begin_steps(self) -> None:
        """It begins to learn."""
        self.learning = time.monotonic()

    def end_steps(self) -> None:
        """It has learned."""
        self.learning = time.monotonic() - self.learning

    def end(self, path: str) -> None:
        """What it learned is kept: say what that took, and what is to come."""
        now = time.monotonic()
        self.left.remove(path)
        self.spent += now - self.begun
        self.foreseen += self.expected[path]
        left = sum(self.expected[other] for other in self.left) * self.spent / max(self.foreseen, 1e-9)
        if self.compute.leads:
            Bar.write(
                f"{self.part}: block {self.count - len(self.left)} of {self.count}, {path}: "
                f"{self.learning / max(self.steps, 1):.2f} s a step, {now - self.begun:.0f} s in all; "
                f"about {duration(left)} left of {duration(self.spent + left)} for {self.part}",
                file=sys.stderr,
            )


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
