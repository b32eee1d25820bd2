"""What a calibration keeps, and what waits for its turn: on the device, on the host or on disk, by what fits.

What is freed goes back to the system: glibc keeps it, in pieces that the next size does not fit. Elsewhere nothing
happens.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from passionsr_trt.engines.common.free_memory import free_memory
from passionsr_trt.export.model.devices import HOST, move, move_own, naming_full_memory, working_on
from passionsr_trt.export.model.hooks import hooked
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.quantize.calibration import write_tensors
from safetensors.torch import load_file
from torch import Tensor, nn

MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD
SHARE = 4  # of free memory, one part of so many: what remains is for activations, and for others on the host
T = TypeVar("T")
Bring = Callable[[nn.Module], None]


class Where(enum.Enum):
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


def free_on(device: torch.device) -> int:
    """Bytes that tensors can still take there; what PyTorch keeps for itself counts as free."""
    if device.type != "cuda":
        return free_memory()
    free, _total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@dataclass
class Placement:
    """Room for tensors, in bytes: on the device as long as it lasts, then on the host, then on disk."""

    device: torch.device
    device_room: int = 0
    host_room: int = 0

    @classmethod
    def measured(cls, device: torch.device) -> Placement:
        """By the memory that is free now. On the host what is kept goes to disk: block by block is for little
        memory."""
        if device.type == HOST.type:
            return cls(device)
        return cls(device, free_on(device) // SHARE, free_memory() // SHARE)

    def place(self, size: int) -> Where:
        """Where a tensor of `size` bytes goes; its room is taken."""
        if size <= self.device_room:
            self.device_room -= size
            return Where.DEVICE
        if size <= self.host_room:
            self.host_room -= size
            return Where.HOST
        return Where.DISK


class Spill:
    """Tensors that are read one at a time, on the device."""

    def __init__(self, folder: Path, placement: Placement) -> None:
        self.folder, self.placement = folder, placement
        self.tensors: list[Tensor | None] = []  # None: on disk
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, x: Tensor) -> None:
        where = self.placement.place(x.numel() * x.element_size())
        if where is Where.DISK:
            write_tensors({"x": x}, self.folder / str(len(self.tensors)))
            self.tensors.append(None)
        else:
            self.tensors.append(x if where is Where.DEVICE else x.to(HOST))

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int, /) -> Tensor:
        x = self.tensors[index]
        return (load_file(self.folder / str(index))["x"] if x is None else x).to(self.placement.device)


@contextmanager
def resident(device: torch.device, part: Part, waiting: Sequence[nn.Module]) -> Iterator[Bring]:
    """A part ready to run on a device while the context lasts, then on the host again.

    waiting: blocks of which only the one that runs is on the device; the others wait on the host. Without any, the
    whole part is there. Gives what brings a block there to be learned.
    """
    current: nn.Module | None = None

    def bring(block: nn.Module) -> None:
        nonlocal current
        if block is not current:
            if current is not None:
                move(current, HOST)
            move(block, device)
            current = block

    if not waiting:
        with working_on(device, [part]):
            yield lambda _block: None
        return
    inside = {module for block in waiting for module in block.modules()}
    try:
        with hooked(block.register_forward_pre_hook(lambda block, _args: bring(block)) for block in waiting):
            for module in part.module.modules():
                if module not in inside:
                    move_own(module, device)
            with naming_full_memory(device):
                yield bring
    finally:
        move(part.module, HOST)


def waiting_blocks(device: torch.device, part: Part, blocks: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """The blocks that have to wait on the host: all of a part whose weights are too large, else none."""
    if device.type == HOST.type:
        return ()
    weights = sum(weight.numel() * weight.element_size() for weight in part.module.parameters())
    return blocks if weights > free_on(device) // SHARE else ()


def within(budget: int, items: Sequence[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Neighbours whose sizes, in bytes, fit the budget together; one that alone does not fit comes alone."""
    chosen: list[T] = []
    room = budget
    for item in items:
        size = size_of(item)
        if chosen and size > room:
            yield chosen
            chosen, room = [], budget
        chosen.append(item)
        room -= size
    if chosen:
        yield chosen


def return_freed_memory() -> None:
    """From now on large tensors go back when they are freed: half the peak of a block-wise run. Takes time."""
    _glibc("mallopt", MMAP_THRESHOLD, 1 << 20)


def return_what_is_free() -> None:
    """What is free now goes back, once: a gigabyte after Stable Diffusion 2.1's UNet."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)  # musl has none
        if function is not None:
            function(*arguments)
