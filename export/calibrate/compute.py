"""Where a calibration computes: a device, and the processes that share the work, as torchrun starts them.

| what                                | shared by | against one process with the same spec                      |
| ----------------------------------- | --------- | ----------------------------------------------------------- |
| histograms of ranges                | images    | extremes equal; counts but for values on the edge of a bin  |
| ranges of the search                | crops     | equal                                                       |
| errors of the search                | ports     | equal                                                       |
| what each block costs               | crops     | equal: errors are added in the order of the crops           |
| outputs, blocks' inputs and targets | crops     | equal: computed by one, given to all                        |
| the gradients of a step             | its crops | two processes with one crop each: equal; more: to rounding  |
| second-order rounding               | ports     | equal                                                       |

A step has as many crops as the spec says (accumulate), whatever the number of processes. Each keeps every crop and
learns alike, the first one writes. For a process of its own all of this does nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.export.model.devices import HOST, chosen_device
from passionsr_trt.export.quantize.observers import Histogram
from torch import Tensor, distributed, nn

T = TypeVar("T")
Values = tuple[Any, ...]
PATIENCE = timedelta(hours=24)  # the first process may wait for another calibration of the same


@dataclass(frozen=True)
class Compute:
    """One process of `size`, the number `rank` of them, and its device."""

    device: torch.device = HOST
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True for the process that speaks and writes."""
        return self.rank == 0

    def check_share(self, spec: QuantSpec) -> None:
        """UserError where the crops of a step cannot be shared out evenly."""
        if spec.method == "learned" and spec.accumulate % self.size:
            raise UserError(
                f"spec: accumulate is {spec.accumulate}, for {self.size} processes",
                f"expected a multiple of {self.size}: the crops of a step are shared out",
            )

    def shared(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share; item i is with process i modulo their number."""
        return items[self.rank :: self.size] if self.size > 1 else items

    def in_turn(self, count: int, compute: Callable[[int], Values]) -> Iterator[Values]:
        """compute(0), compute(1), …, each computed by one process and given to all, in order."""
        for start in range(0, count, self.size):
            own = start + self.rank
            values = compute(own) if own < count else None
            for index in range(start, min(start + self.size, count)):
                yield self.exchanged(values, index - start)

    def exchanged(self, values: Values | None, owner: int) -> Values:
        """What process `owner` has, for all: tensors, and numbers or tuples of them beside these."""
        if self.size == 1:
            assert values is not None
            return values
        own, tensors = self.rank == owner, []  # type: tuple[bool, list[Tensor]]
        header = json.dumps(_described(values, tensors)).encode() if own else b""
        length = torch.tensor([len(header)], device=HOST)
        distributed.broadcast(length, owner)
        letters = torch.zeros(int(length), dtype=torch.uint8, device=HOST)
        if own:
            letters = torch.tensor(list(header), dtype=torch.uint8, device=HOST)
        distributed.broadcast(letters, owner)
        received: Values = _received(json.loads(bytes(letters.tolist())), owner, iter(tensors) if own else None)
        return received

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up what the processes found for their crops of one step."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        together = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(together)
        for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.reshape(gradient.shape))

    def extremes(self, lows: Tensor, highs: Tensor) -> tuple[Tensor, Tensor]:
        """The least of the lows and the greatest of the highs of all processes."""
        if self.size == 1:
            return lows, highs
        both = torch.cat([lows, -highs])
        distributed.all_reduce(both, distributed.ReduceOp.MIN)
        return both[: len(lows)].clone(), -both[len(lows) :]

    def begin_alike(self, histograms: Mapping[str, Histogram], run_first: Callable[[], object]) -> None:
        """Bins that can be added up: every process sets them by the first sample, whoever counts it."""
        if self.size > 1 and histograms:
            run_first()
            for histogram in histograms.values():
                histogram.restart()

    def merge(self, histograms: Mapping[str, Histogram]) -> None:
        """Every process's counts in each."""
        if self.size == 1 or not histograms:
            return
        own = list(histograms.values())
        reach = torch.tensor([[h.limit, h.maximum, -h.minimum] for h in own], dtype=torch.float64, device=HOST)
        distributed.all_reduce(reach, distributed.ReduceOp.MAX)
        for histogram, (limit, high, low) in zip(own, reach.tolist(), strict=True):
            histogram.widen(limit)
            histogram.maximum, histogram.minimum = high, -low
            distributed.all_reduce(histogram.counts)


ALONE = Compute()


def refuse_several(command: str) -> None:
    """One process does this; of several the first one says so."""
    if (several := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        if os.environ.get("RANK") != "0":
            raise SystemExit(2)
        raise UsageError(f"{command}: {several} processes", "expected one", "run it without torchrun")


@contextmanager
def together(device: str) -> Iterator[Compute]:
    """Meet the other processes that torchrun started, if it did; device: as `chosen_device` takes it.

    Where one fails all end: the first that does says why, the others say nothing.
    """
    several = int(os.environ.get("WORLD_SIZE", 1))
    if several == 1:
        yield Compute(chosen_device(device))
        return
    store, rank, several = next(iter(distributed.rendezvous("env://", timeout=PATIENCE)))
    if rank:
        os.environ["TQDM_DISABLE"] = "1"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=several, timeout=PATIENCE)
    try:
        if several != int(os.environ.get("LOCAL_WORLD_SIZE", several)):
            raise UserError(f"{several} processes on several machines", "expected all on one: they share a cache")
        yield Compute(chosen_device(device, int(os.environ.get("LOCAL_RANK", rank))), rank, several)
        distributed.all_reduce(torch.zeros(1, device=HOST))  # nobody leaves before the others are done
    except BaseException:
        before = 1
        with suppress(Exception):  # the store may be gone
            before = store.add("failed", 1) - 1
        if before:
            raise SystemExit(1) from None
        raise
    distributed.destroy_process_group()


def _described(value: Any, tensors: list[Tensor]) -> Any:
    """A value as JSON, its tensors put aside."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {
            "tensor": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "on": value.device.type,
        }
    if isinstance(value, tuple | list):
        return [_described(entry, tensors) for entry in value]
    return value


def _received(described: Any, owner: int, own: Iterator[Tensor] | None) -> Any:
    """own: the tensors of the process that has them."""
    if isinstance(described, list):
        return tuple(_received(entry, owner, own) for entry in described)
    if not isinstance(described, dict):
        return described
    dtype, shape = getattr(torch, described["tensor"]), described["shape"]
    device = HOST if described["on"] == HOST.type else torch.device("cuda", torch.cuda.current_device())
    tensor = torch.empty(shape, dtype=dtype, device=device) if own is None else next(own).contiguous()
    distributed.broadcast(tensor.view(torch.uint8) if dtype is torch.bool else tensor, owner)
    return tensor
