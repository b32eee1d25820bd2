"""Block by block: the same stages on one ResBlock or transformer block at a time, in the order they run.

Each block sees what the quantized blocks before it give and is taught by its float twin. Memory is one
block's: its inputs and targets are kept on disk (placement.py: on a GPU, where they fit).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.export.calibrate.distributed import in_turn
from passionsr_trt.export.calibrate.placement import Placement, Spill
from passionsr_trt.export.calibrate.stages import Pairs, Samples
from passionsr_trt.export.quantize.hooks import hooked
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.part import Part
from passionsr_trt.export.quantize.sites import Site
from torch import Tensor, nn
from tqdm import tqdm

Inputs = tuple[Tensor, ...]


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


@contextmanager
def block_pairs(
    part: Part, block: nn.Module, title: str, quantized: Samples[Inputs], floats: Samples[Inputs]
) -> Iterator[Pairs]:
    """What one block is to learn from, kept where it fits while the context lasts."""
    placement = Placement.measured(floats[0][0].device)
    with temporary_folder() as folder:
        inputs, targets = (Spill(folder / name, placement) for name in ("inputs", "targets"))
        others: list[tuple[Any, ...]] = []
        with part.mode(Mode.FLOAT):
            after = in_turn(len(floats), lambda index: run_until(part, block, floats[index], before=False))
            for (target,) in tqdm(after, desc=f"{title}: targets", total=len(floats), leave=False):
                targets.append(target)
        with part.mode(Mode.LEARN):
            given = in_turn(len(quantized), lambda index: run_until(part, block, quantized[index], before=True))
            for x, *rest in tqdm(given, desc=f"{title}: inputs", total=len(quantized), leave=False):
                inputs.append(x)
                others.append(tuple(rest))
        yield Pairs(AsInputs(inputs, others), targets)


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
