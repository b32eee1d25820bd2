"""Counts on shapes alone: bytes that tensors hold at their peak, floating-point operations, bytes that are moved.

The real code runs on tensors of PyTorch's `meta` device, which have shapes and no numbers, so a large model costs
nothing. Where code asks a tensor for its value it is told `answer`. Attention is taken as CUDA computes it in
float32, without a matrix of scores.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


@dataclass
class Counts:
    """work: of each kernel (operations, bytes read and written); operations: two a multiply-accumulate."""

    work: list[tuple[int, int]] = field(default_factory=list)
    peak: int = 0

    @property
    def operations(self) -> int:
        return sum(operations for operations, _moved in self.work)

    def seconds(self, rate: float, bandwidth: float) -> float:
        """A roofline: every kernel at the card's peak, operations or bytes, whichever takes longer."""
        return sum(max(operations / rate, moved / bandwidth) for operations, moved in self.work)


class Counting(TorchDispatchMode):
    """While it lasts tensors that are made are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.answer, self.live, self.counts = 0.0, 0, Counts()
        self.held: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def restart(self) -> Counts:
        """Count anew; what is held now is part of the new peak."""
        self.counts = Counts(peak=self.live)
        return self.counts

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is aten._local_scalar_dense.default and args[0].is_meta:
            return bool(self.answer) if args[0].dtype is torch.bool else self.answer
        if function is aten.allclose.default and args[0].is_meta:
            return bool(self.answer)
        result = function(*args, **kwargs)
        given, made = _tensors((args, tuple(kwargs.values()))), _tensors(result)
        own = {tensor.untyped_storage()._cdata for tensor in given}
        fresh = [tensor for tensor in made if tensor.untyped_storage()._cdata not in own]
        for tensor in fresh:
            self._hold(tensor)
        if fresh or function._schema.is_mutable:
            count = flop_registry.get(function._overloadpacket)
            operations = count(*args, **kwargs, out_val=result) if count else 0
            moved = sum(tensor.numel() * tensor.element_size() for tensor in given + made)
            self.counts.work.append((operations, moved))
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.held or tensor.device.type != "meta":
            return
        size = storage.nbytes()
        self.held[storage] = size
        self.live += size
        self.counts.peak = max(self.counts.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


@contextmanager
def attention_of_cuda() -> Iterator[None]:
    """scaled_dot_product_attention by the kernel that CUDA has for float32, while the context lasts."""

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, **_rest: object) -> Tensor:
        one, two = (x.expand(query.shape[0], *x.shape[1:]) for x in (key, value))
        result: Tensor = aten._scaled_dot_product_efficient_attention(query, one, two, None, True, scale=scale)[0]
        return result

    # not a TorchFunctionMode: checkpoints recompute in the backward pass, where it does not reach
    with mock.patch.object(nn.functional, "scaled_dot_product_attention", attend):
        yield


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [x for value in values for x in _tensors(value)] if isinstance(values, list | tuple) else []
