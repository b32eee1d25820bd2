"""A part while it is calibrated: its learners, what they learn from, and how far they are.

Learners are the form in which a PartQuant can be learned: `quant` is its value at any time. They are attached from
the search on until the part is done, and saved after each stage or block, beside the cache's entry: a calibration
that was interrupted goes on from there.
A stage learns on one module, the part or a block of it. The loss of a crop against the float twin is its relative
error e = ‖O − O_q‖² / ‖O‖². With drawn pictures among the crops each step sees as many of them as of the user's,
and minimises Σ w·√e, w the weight of each kind: a few that are far off do not outweigh the others. Adam, cosine
decay, seeded order. Where a picture gives n small crops instead of a large one there are n times the steps, in the
same time, of 1/√n of the rate.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.export.calibrate.blocks import (
    Inputs,
    Pairs,
    Schedule,
    block_costs,
    block_pairs,
    block_timings,
    blocks_in_order,
    learning_order,
)
from passionsr_trt.export.calibrate.compute import Compute
from passionsr_trt.export.calibrate.data import crop_side, window
from passionsr_trt.export.calibrate.learners import LearnedPort, LearnedSite, learned_ports, learners_of
from passionsr_trt.export.calibrate.placement import Bring
from passionsr_trt.export.model.absorb import keeping_padding, pad_before_shift
from passionsr_trt.export.model.devices import HOST
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import Site, group_ports
from passionsr_trt.export.quantize.calibration import write_tensors
from passionsr_trt.export.quantize.chosen import quantized_sites
from passionsr_trt.export.quantize.grids import Grid
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SEARCH_INPUTS, SEARCH_DRAWN, SEARCH_CROP = 4, 12, 128
COST_INPUTS = 2  # crops on which the cost of each block is measured
STATE = "state"


class TrainingStage(Protocol):
    """What learns together: how many steps, what is done before them, which parameters."""

    @property
    def name(self) -> str: ...

    def steps(self, spec: QuantSpec) -> int: ...
    def begin(self, module: nn.Module, spec: QuantSpec) -> None: ...
    def parameters(self, module: nn.Module, spec: QuantSpec) -> list[nn.Parameter]: ...


def run_stage(
    module: nn.Module, stage: TrainingStage, title: str, pairs: Pairs, spec: QuantSpec, compute: Compute
) -> None:
    """Learn one stage; title: of the module, which the order of its samples depends on."""
    stage.begin(module, spec)
    parameters, steps = stage.parameters(module, spec), stage.steps(spec) * pairs.per_picture
    if not steps or not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=spec.learning_rate / math.sqrt(pairs.per_picture))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    samples = crops_of_steps(pairs, spec, f"{spec.seed} {title}")
    title = f"{title}: {stage.name}"
    with only(parameters, module), Bar(range(steps), desc=title, unit="step") as progress:
        for _step in progress:
            optimizer.zero_grad()
            total = 0.0
            for index, weight in compute.shared(next(samples)):
                target = pairs.targets[index]
                error = nn.functional.mse_loss(module(*pairs.inputs[index]), target)
                loss = error / target.square().mean().clamp_min(1e-12)
                loss = weight * (loss.clamp_min(1e-12).sqrt() if any(pairs.drawn) else loss)
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
    others = [other for other in module.parameters() if other.requires_grad and id(other) not in chosen]
    for other in others:
        other.requires_grad_(False)
    try:
        yield
    finally:
        for other in others:
            other.requires_grad_(True)


def sample_order(count: int, name: str) -> Iterator[int]:
    """Endless permutations of the samples; a stage that is run again sees the same ones."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def crops_of_steps(pairs: Pairs, spec: QuantSpec, name: str) -> Iterator[list[tuple[int, float]]]:
    """What each step learns from: crops and their weights, `accumulate` of each kind that there is."""
    kinds = [kind for kind in zip(pairs.kinds, (1 - spec.drawn_weight, spec.drawn_weight), strict=True) if kind[0]]
    orders = [sample_order(len(crops), name) for crops, _weight in kinds]
    total = sum(weight for _crops, weight in kinds) * spec.accumulate
    while True:
        yield [
            (crops[next(order)], weight / total)
            for (crops, weight), order in zip(kinds, orders, strict=True)
            for _crop in range(spec.accumulate)
        ]


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


@dataclass
class State:
    """How far a part is: the stages or blocks that are done, by name; the blocks that learn, in their order."""

    done: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def tensor(self) -> Tensor:
        """As letters: a safetensors file holds nothing else."""
        return torch.tensor(list(json.dumps(asdict(self)).encode()), dtype=torch.uint8, device="cpu")

    @classmethod
    def read(cls, letters: Tensor) -> State:
        return cls(**json.loads(bytes(letters.tolist())))


@dataclass(frozen=True)
class Saved:
    """Learners' states in a folder, a file for each part; without one nothing is kept. Of several processes one
    writes."""

    folder: Path | None
    compute: Compute

    def restore(self, name: str, learners: nn.Module) -> State | None:
        """Load a part's learners; returns how far they are, or None to start anew."""
        if self.folder is None or not (self.folder / f"{name}.safetensors").is_file():
            return None
        try:
            tensors: dict[str, Tensor] = load_file(self.folder / f"{name}.safetensors")
            state = State.read(tensors.pop(STATE))
        except (SafetensorError, KeyError, ValueError, TypeError):
            return None  # damaged: it is only a saving of time
        shapes = {key: value.shape for key, value in learners.state_dict().items()}
        if {key: value.shape for key, value in tensors.items()} != shapes:
            return None  # written by another version
        learners.load_state_dict(tensors)
        return state

    def save(self, name: str, learners: nn.Module, state: State) -> None:
        """Atomic, so that an interruption here leaves the state before."""
        if self.folder is None or not self.compute.leads:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.tmp"
        write_tensors(learners.state_dict() | {STATE: state.tensor()}, temporary)
        temporary.replace(self.folder / f"{name}.safetensors")

    def clear(self) -> None:
        if self.folder is not None and self.compute.leads:
            shutil.rmtree(self.folder, ignore_errors=True)


class PartTrainer:
    """A context: what is attached to the part in it is gone afterwards.

    teacher: the float twin's inputs; pairs: the quantized part's, and the float twin's outputs. is_last: the part
    gives the picture. low_memory: activations are recomputed in the backward pass. bring: gets a block to the
    device.
    """

    def __init__(
        self,
        part: Part,
        spec: QuantSpec,
        teacher: Sequence[Inputs],
        pairs: Pairs,
        saved: Saved,
        bring: Bring = lambda _block: None,
        low_memory: bool = False,
        is_last: bool = False,
    ) -> None:
        self.part, self.spec, self.teacher, self.pairs = part, spec, teacher, pairs
        self.saved, self.bring, self.low_memory, self.is_last = saved, bring, low_memory, is_last
        self.compute, self.state, self.stack = saved.compute, State(), ExitStack()
        self.groups = group_ports(quantized_sites(part, spec))

    def __enter__(self) -> PartTrainer:
        self.stack.enter_context(keeping_padding(self.groups.values()))
        return self

    def __exit__(self, *failure: Any) -> None:
        self.stack.close()

    @property
    def small(self) -> list[Inputs]:
        """Small crops of the float twin's inputs, to compare candidates and blocks on: the user's first."""
        side = crop_side([self.part], SEARCH_CROP)
        own, drawn = self.pairs.kinds
        return [
            tuple(window(x, info.stride, (0, 0), side) for x, info in zip(inputs, self.part.inputs, strict=True))
            for inputs in (self.teacher[index] for index in own[:SEARCH_INPUTS] + drawn[:SEARCH_DRAWN])
        ]

    def attach(self, learners: Mapping[Any, nn.Module]) -> bool:
        """Learners of ports and sites, from now on; True where an interrupted calibration left their state."""
        self.stack.enter_context(attached(learners))
        state = self.saved.restore(self.part.name, learners_of(self.part.module))
        self.state = State() if state is None else state
        return state is not None

    def pad_before_shifts(self) -> None:
        """In front of a shift the port pads, and the padded zeros are part of its range."""
        for group in self.groups.values():
            port: LearnedPort = group[0].site.port.quantizer
            if port.shifted:
                pad_before_shift(group)
                if group[0].site.port.pads:
                    port.lows, port.highs = port.lows.clamp_max(0), port.highs.clamp_min(0)

    @torch.no_grad()
    def quant(self) -> PartQuant:
        """The value of the learners, on the host."""
        ports, sites = {}, {}
        for port_name, group in self.groups.items():
            port: LearnedPort = group[0].site.port.quantizer
            transforms = bool((port.s() != 1).any()) or port.shifted or port.zero_point
            let = Let(port.s().clone(), port.delta().clone()) if transforms else None
            ports[port_name] = PortQuant(port.step().clone(), port.zero_point, let)
            for named in group:
                site: LearnedSite = named.site.quantizer
                scale = site.boundary(port.weight(named.site.weight)) / site.limit
                bias = site.added_bias()
                sites[named.name] = SiteQuant(scale, bias=bias if bool(bias.any()) else None)
        return PartQuant(ports, sites, Grid.of(self.spec)).on(HOST)

    def learn(self, stages: Sequence[TrainingStage]) -> None:
        """Everything that is not done yet, on the whole part or block by block."""
        if self.spec.granularity == "block":
            self._blocks(stages)
            return
        with self.recomputing_blocks():
            for stage in stages:
                if stage.name not in self.state.done:
                    self.run(self.part.module, stage, self.part.name, self.pairs)
                    self._done(stage.name)

    def run(self, module: nn.Module, stage: TrainingStage, title: str, pairs: Pairs) -> None:
        run_stage(module, stage, title, pairs, self.spec, self.compute)

    def recomputing_blocks(self) -> Any:
        """While it lasts, with low_memory, every block of the part is recomputed."""
        named = blocks_in_order(self.part, self.teacher[0]) if self.low_memory else []
        return recomputing([block for _path, block in named])

    def _blocks(self, stages: Sequence[TrainingStage]) -> None:
        named = blocks_in_order(self.part, self.teacher[0])
        blocks = {path: block for path, block in named if learned_ports(block)}
        if blocks and not self.state.order:
            costs = block_costs(self.part, blocks, self.small[:COST_INPUTS], self.compute)
            self.state.order = learning_order(costs, self.spec.block_share)
            self.save()
        left = [path for path in self.state.order if path not in self.state.done]
        if not left:
            return
        times = block_timings(self.part, blocks, self.teacher[0])
        schedule = Schedule(
            self.part.name, self.spec, times, len(self.teacher), self.state.order, left, self.compute
        )
        for path in left:
            self._block(path, blocks[path], stages, schedule)
            self._done(path)
            schedule.end(path)

    def _block(self, path: str, block: nn.Module, stages: Sequence[TrainingStage], schedule: Schedule) -> None:
        """All stages of one block."""
        title, inputs = f"{self.part.name}.{path}", (self.pairs.inputs, self.teacher)
        sites = [inner for inner in block.modules() if isinstance(inner, Site)] if self.low_memory else []
        schedule.begin()
        with block_pairs(self.part, block, title, inputs, self.compute) as pairs, recomputing(sites):
            own = replace(pairs, drawn=self.pairs.drawn)
            self.bring(block)
            schedule.begin_steps()
            for stage in stages:
                self.run(block, stage, title, own)
            schedule.end_steps()

    def _done(self, name: str) -> None:
        self.state.done.append(name)
        self.save()

    def save(self) -> None:
        self.saved.save(self.part.name, learners_of(self.part.module), self.state)


@dataclass(frozen=True)
class Learn:
    """The step that learns in stages, one after the other.

    Requires the search's learners. Ensures that each stage is done, on the part or on all its blocks that learn.
    """

    stages: tuple[TrainingStage, ...]

    def __call__(self, trainer: PartTrainer, _quant: PartQuant) -> PartQuant:
        trainer.learn(self.stages)
        return trainer.quant()
