"""Block by block: the same stages on one ResBlock or transformer block at a time, in the order they run.

Each block sees what the quantized blocks before it give and is taught by its float twin. Memory is one
block's: its inputs and targets are kept on disk.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from passionsr_trt.export.calibrate.stages import Pairs, Tensors
from passionsr_trt.export.families.stable_diffusion.blocks import (
    Downsample,
    ResBlock,
    SpatialSelfAttention,
    SpatialTransformer,
    Upsample,
)
from passionsr_trt.export.families.stable_diffusion.tiny_vae import TinyBlock
from passionsr_trt.export.quantize.sites import Mode, Site, set_mode
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD
BLOCKS = (ResBlock, SpatialTransformer, SpatialSelfAttention, TinyBlock, Upsample, Downsample)


def return_freed_memory() -> None:
    """From now on large tensors go back to the system when they are freed (glibc; elsewhere nothing happens).

    glibc keeps them by default, in pieces that the next size does not fit: half the peak of a block-wise run.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(MMAP_THRESHOLD, 1 << 20)


class Spill:
    """Tensors on disk, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.length = folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, x: Tensor) -> None:
        save_file({"x": x.contiguous()}, self.folder / str(self.length))
        self.length += 1

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> Tensor:
        return load_file(self.folder / str(index))["x"]


def blocks_in_order(part: nn.Module, x: Tensor) -> list[tuple[str, nn.Module]]:
    """The part's outermost blocks, and sites outside of any, in the order in which they run."""
    names: dict[nn.Module, str] = {}
    inside: set[nn.Module] = set()
    for name, module in part.named_modules():
        if module not in inside and isinstance(module, (*BLOCKS, Site)):
            names[module] = name
            inside.update(module.modules())
    order: list[tuple[str, nn.Module]] = []

    def note(module: nn.Module, _args: object) -> None:
        order.append((names[module], module))

    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.no_grad():
            part(x)
    finally:
        for handle in handles:
            handle.remove()
    return order


@contextmanager
def block_pairs(
    part: nn.Module, block: nn.Module, title: str, quantized: Tensors, floats: Tensors
) -> Iterator[Pairs]:
    """What one block is to learn from, on disk while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="passionsr-trt-") as folder:
        inputs, targets = Spill(Path(folder) / "inputs"), Spill(Path(folder) / "targets")
        set_mode(part, Mode.FLOAT)
        for x in tqdm(floats, desc=f"{title}: targets", leave=False):
            targets.append(run_until(part, block, x, before=False))
        set_mode(part, Mode.LEARN)
        for x in tqdm(quantized, desc=f"{title}: inputs", leave=False):
            inputs.append(run_until(part, block, x, before=True))
        yield Pairs(inputs, targets)


class _Reached(Exception):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


@torch.no_grad()
def run_until(part: nn.Module, block: nn.Module, x: Tensor, before: bool) -> Tensor:
    """Run a part as far as a block; returns the block's input (`before`) or output."""

    def stop_before(_module: nn.Module, args: tuple[Tensor]) -> NoReturn:
        raise _Reached(args[0])

    def stop_after(_module: nn.Module, _args: object, output: Tensor) -> NoReturn:
        raise _Reached(output)

    if before:
        handle = block.register_forward_pre_hook(stop_before)
    else:
        handle = block.register_forward_hook(stop_after)
    try:
        part(x)
    except _Reached as reached:
        return reached.x
    finally:
        handle.remove()
    raise AssertionError("the block was not reached")
