"""The stages on a searched part: on the whole of it, or on one block after the other (block_order.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.block_order import Schedule, block_costs, learning_order, passages
from passionsr_trt.export.calibrate.blockwise import Inputs, block_pairs, blocks_in_order
from passionsr_trt.export.calibrate.placement import Bring
from passionsr_trt.export.calibrate.resume import Progress, State
from passionsr_trt.export.calibrate.search import PortSearch
from passionsr_trt.export.calibrate.settling import settle
from passionsr_trt.export.calibrate.stages import (
    Pairs,
    learned_ports,
    learners_of,
    recomputing,
    run_stage,
    stages,
)
from passionsr_trt.export.quantize.part import Part
from passionsr_trt.export.quantize.sites import Site
from torch import nn


@dataclass(frozen=True)
class Lesson:
    """A part in LEARN mode, and all that it learns from.

    pairs: inputs of the quantized part, and the float twin's outputs; teacher: the float twin's inputs. state:
    what is done already. bring: what gets a block to the device.
    """

    part: Part
    spec: QuantSpec
    pairs: Pairs
    teacher: Sequence[Inputs]
    progress: Progress
    state: State
    low_memory: bool
    bring: Bring

    def learn(self, small: Sequence[Inputs]) -> None:
        """Everything that is not done yet. small: crops of the float twin's inputs, to compare blocks on."""
        if self.spec.granularity == "module":
            self._whole()
        else:
            self._blocks(small)

    def settle(self, searches: Sequence[PortSearch]) -> None:
        """Of the last part, whose weights have their turns."""
        named = blocks_in_order(self.part, self.teacher[0]) if self.low_memory else []
        with recomputing([block for _path, block in named]):
            settle(self.part, self.spec, searches, self.pairs)

    def _whole(self) -> None:
        named = blocks_in_order(self.part, self.teacher[0]) if self.low_memory else []
        with recomputing([block for _path, block in named]):
            for stage in stages(self.spec):
                if stage.name not in self.state.done:
                    run_stage(self.part.module, stage, self.part.name, self.pairs, self.spec)
                    self._done(stage.name)

    def _blocks(self, small: Sequence[Inputs]) -> None:
        named = blocks_in_order(self.part, self.teacher[0])
        blocks = {path: block for path, block in named if learned_ports(block)}
        if blocks and not self.state.order:
            self.state.order = learning_order(block_costs(self.part, blocks, small), self.spec.block_share)
            self._save()
        left = [path for path in self.state.order if path not in self.state.done]
        if not left:
            return
        times = passages(self.part, blocks, self.teacher[0])
        schedule = Schedule(self.part.name, self.spec, times, len(self.teacher), self.state.order, left)
        for path in left:
            self._block(path, blocks[path], schedule)
            self._done(path)
            schedule.end(path)

    def _block(self, path: str, block: nn.Module, schedule: Schedule) -> None:
        """All stages of one block."""
        title = f"{self.part.name}.{path}"
        sites = [found for found in block.modules() if isinstance(found, Site)] if self.low_memory else []
        schedule.begin()
        with block_pairs(self.part, block, title, self.pairs.inputs, self.teacher) as own, recomputing(sites):
            self.bring(block)
            schedule.begin_steps()
            for stage in stages(self.spec):
                run_stage(block, stage, title, own, self.spec)
            schedule.end_steps()

    def _done(self, name: str) -> None:
        self.state.done.append(name)
        self._save()

    def _save(self) -> None:
        self.progress.save(self.part.name, learners_of(self.part.module), self.state)
