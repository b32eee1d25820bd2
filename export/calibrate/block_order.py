"""Which blocks learn, in which order, and how long that will take.

What a block's quantization costs: the error at the part's output with this block alone quantized, as the search
left it, in parts of the output's energy.
1. The costliest FIRST of a part's blocks learn first, by their costs, so that a run that is stopped has done most
   of what it can;
2. the rest follow in the order in which they run;
3. a spec's `block_share` ends it earlier: blocks that cost less keep what the search found.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.blockwise import Inputs
from passionsr_trt.export.calibrate.distributed import in_turn, rank, size
from passionsr_trt.export.quantize.devices import HOST
from passionsr_trt.export.quantize.hooks import hooked
from passionsr_trt.export.quantize.modes import Mode, in_mode
from passionsr_trt.export.quantize.part import Part
from torch import Tensor, nn
from tqdm import tqdm

FIRST = 0.2
STEP_PASSES = 4  # a step of learning, in forward passes: what the first projection rests on


@torch.no_grad()
def block_costs(part: Part, blocks: Mapping[str, nn.Module], crops: Sequence[Inputs]) -> dict[str, float]:
    """What each block's quantization costs, on the float part's inputs. Learners are in place."""

    def of_crop(index: int) -> tuple[Tensor]:
        inputs = crops[index]
        with part.mode(Mode.FLOAT):
            exact: Tensor = part.module(*inputs)
            energy = float(exact.square().sum()) + 1e-12
            found = []
            for block in tqdm(blocks.values(), f"{part.name}: what blocks cost", unit="block", leave=False):
                with in_mode(block, Mode.LEARN):
                    found.append(float((part.module(*inputs) - exact).square().sum()) / energy)
        return (torch.tensor(found, dtype=torch.float64, device=HOST),)

    total = torch.zeros(len(blocks), dtype=torch.float64, device=HOST)
    for (errors,) in in_turn(len(crops), of_crop):
        total += errors
    return dict(zip(blocks, total.tolist(), strict=True))


def learning_order(costs: Mapping[str, float], share: float) -> list[str]:
    """Blocks that learn, in the order in which they do; costs: in the order in which they run."""
    ranked = sorted(costs, key=lambda path: -costs[path])
    chosen = ranked[: math.ceil(share * len(costs))]
    first = chosen[: math.ceil(FIRST * len(costs))]
    return first + [path for path in costs if path in chosen and path not in first]


@dataclass(frozen=True)
class Passage:
    """Seconds of one pass through a part when a block begins, and when it ends."""

    begins: float
    ends: float


@torch.no_grad()
def passages(part: Part, blocks: Mapping[str, nn.Module], inputs: Inputs) -> dict[str, Passage]:
    """When each block begins and ends in a pass, by its path."""
    begun: dict[str, float] = {}
    found: dict[str, Passage] = {}
    device = inputs[0].device

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.monotonic()

    def begin(path: str, *_given: object) -> None:
        begun[path] = now()

    def end(path: str, *_given: object) -> None:
        found[path] = Passage(begun[path] - start, now() - start)

    before = (block.register_forward_pre_hook(partial(begin, path)) for path, block in blocks.items())
    after = (block.register_forward_hook(partial(end, path)) for path, block in blocks.items())
    with hooked(chain(before, after)):
        start = now()
        part.module(*inputs)
    return found


class Schedule:
    """How far a part's blocks are, and how long the rest will take, by what was measured so far.

    What a block takes is its steps and the passes that give what it learns from, as `passages` weighs them; how
    long that really is, the blocks that are done tell.
    """

    def __init__(
        self,
        part: str,
        spec: QuantSpec,
        times: Mapping[str, Passage],
        crops: int,
        order: Sequence[str],
        left: Sequence[str],
    ) -> None:
        """crops: pictures that blocks learn from; left: blocks that are still to be learned, of `order`."""
        self.part, self.count, self.left = part, len(order), list(left)
        self.steps = spec.let_steps + spec.lbq_steps
        self.expected = {path: self._expected(times[path], spec, crops) for path in left}
        self.spent = self.foreseen = self.begun = self.learning = 0.0

    def _expected(self, passage: Passage, spec: QuantSpec, crops: int) -> float:
        """Seconds of a block, before any of them is done."""
        steps = self.steps * spec.accumulate * STEP_PASSES * (passage.ends - passage.begins)
        return (steps + crops * (passage.begins + passage.ends)) / size()

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
        rest = sum(self.expected[other] for other in self.left) * self.spent / max(self.foreseen, 1e-9)
        if not rank():
            tqdm.write(
                f"{self.part}: block {self.count - len(self.left)} of {self.count}, {path}: "
                f"{self.learning / max(self.steps, 1):.2f} s a step, {now - self.begun:.0f} s in all; "
                f"about {duration(rest)} left of {duration(self.spent + rest)} for {self.part}",
                file=sys.stderr,
            )


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
