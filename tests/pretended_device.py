"""A device that is not there: tensors that live on the CPU, say that they do not, and refuse those that do.

The real code runs on them with real numbers, so that `float(x)` and `bool(x)` answer; FakeTensorMode has none to
give. What PyTorch would refuse on a GPU is refused: an operation on tensors of two devices, but for a CPU scalar.
`lazy` is a kind of device that PyTorch knows and no build has; its backward pass runs on the CPU's thread.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE, HOST = torch.device("lazy", 0), torch.device("cpu")
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
# a CUDA tensor takes indices from the CPU
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}


class There(Tensor):
    """A tensor on the pretended device; `held` holds its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.held = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of PretendedDevice")


class PretendedDevice(TorchDispatchMode):
    """While it lasts DEVICE is there. `made` counts what was made there."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors: list[Tensor] = []
        given_args = [self.numbers(value, tensors) for value in args]
        given = {key: self.numbers(value, tensors) for key, value in (kwargs or {}).items()}
        own = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, There)}
        there = bool(own)
        if there and function not in MOVES:
            self.check(function, args, tensors)
        if given.get("device") is not None:
            there = torch.device(given["device"]) == DEVICE
            given["device"] = HOST
        if function is aten.copy_.default:
            there = isinstance(args[0], There)
        result = function(*given_args, **given)
        return self.labelled(result, own) if there else result

    def numbers(self, value: Any, tensors: list[Tensor]) -> Any:
        """An argument as the CPU takes it; its tensors are noted."""
        if isinstance(value, Tensor):
            tensors.append(value)
            return value.held if isinstance(value, There) else value
        return [self.numbers(entry, tensors) for entry in value] if isinstance(value, list | tuple) else value

    def check(self, function: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
        """RuntimeError where PyTorch would raise it."""
        looked_at = tensors[:1] if function in INDEXED else tensors
        for tensor in looked_at:
            if not isinstance(tensor, There) and (tensor.dim() or tensor is args[0]):
                raise RuntimeError(f"{function}: tensors on {DEVICE} and {HOST}")

    def labelled(self, result: Any, own: dict[int, There]) -> Any:
        """What an operation gave; a tensor that was changed in place is the one that was handed in."""
        if isinstance(result, Tensor):
            self.made += id(result) not in own
            return own[id(result)] if id(result) in own else There(result)
        if isinstance(result, list | tuple):
            return type(result)(self.labelled(entry, own) for entry in result)
        return result
