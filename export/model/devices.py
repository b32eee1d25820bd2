"""Where an export or a calibration computes: the host, or one CUDA device.

Random numbers are drawn on the host whatever the device: every device sees the same crops, noise and order.
On a CUDA device products are of float32 (no TF32: folds are proved to 1e-4) and kernels those that repeat their
sums, where PyTorch has such; it warns where it has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from passionsr_trt.engines.common.errors import UsageError, UserError, reason_of
from passionsr_trt.export.model.part import Part, Tensors
from torch import Tensor, nn

HOST = torch.device("cpu")


def chosen_device(name: str, process: int | None = None) -> torch.device:
    """The device of `--device`: auto (CUDA where torch has it), cpu, cuda or cuda:N.

    process: of several on this machine, each of which takes a device of its own. UsageError where it is not there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not there):
        return HOST
    kind, _colon, number = name.partition(":")
    if process is not None and number:
        raise UsageError(f"--device {name} with several processes", "expected cuda: each takes one of its own")
    index = int(number or process or 0)
    if index >= there:
        fact = f"the last one is cuda:{there - 1}" if there else "PyTorch finds no CUDA device here"
        raise UsageError(f"--device {kind}:{index}: {fact}", "expected one that is there, or cpu")
    return _repeatable(torch.device("cuda", index))


def _repeatable(device: torch.device) -> torch.device:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def on_device(tensors: Tensors, device: torch.device) -> dict[str, Tensor]:
    """A chain's tensors, on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def move(module: nn.Module, device: torch.device) -> None:
    """A module and all within it to a device."""
    for inner in module.modules():
        move_own(inner, device)


def move_own(module: nn.Module, device: torch.device) -> None:
    """A module's own, not its children's: weights, buffers, and what an author's code keeps in plain attributes
    (SwinIR's mean)."""
    module._apply(lambda tensor: tensor.to(device), recurse=False)
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            vars(module)[name] = value.to(device)


@contextmanager
def naming_full_memory(device: torch.device) -> Iterator[None]:
    """PyTorch's error of a full device as one line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{device}: its memory is full ({reason_of(error)})",
            "expected room for the part, its activations and what is kept",
            'a spec\'s "granularity": "block", `calibrate --low-memory`, or --device cpu takes less of it',
        ) from None


@contextmanager
def working_on(device: torch.device, parts: Sequence[Part]) -> Iterator[None]:
    """Parts on a device while the context lasts, then on the host again; UserError where its memory is full."""
    try:
        with naming_full_memory(device):
            for part in parts:
                move(part.module, device)
            yield
    finally:
        for part in parts:
            move(part.module, HOST)
