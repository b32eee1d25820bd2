"""Several processes at one calibration, as torchrun starts them: samples are shared out, the result is one.

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
learns alike, the first one writes. In a process of its own everything here is nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.export.quantize.devices import HOST
from passionsr_trt.export.quantize.observers import Histogram
from torch import Tensor, distributed, nn

T = TypeVar("T")
Values = tuple[Any, ...]
PATIENCE = timedelta(hours=24)  # the first process may wait for another calibration of the same


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def refuse_several(command: str) -> None:
    """One process does this; of several the first one says so."""
    if (several := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        if os.environ.get("RANK") != "0":
            raise SystemExit(2)
        raise UsageError(f"{command}: {several} processes", "expected one", "run it without torchrun")


def local_process() -> int | None:
    """The number of this process on its machine, or None where it is the only one."""
    return int(os.environ.get("LOCAL_RANK", rank())) if size() > 1 else None


@contextmanager
def together() -> Iterator[None]:
    """Meet the other processes that torchrun started, if it did.

    Where one fails all end: the first that does says why, the others say nothing.
    """
    several = int(os.environ.get("WORLD_SIZE", 1))
    if several == 1:
        yield
        return
    store, number, several = next(iter(distributed.rendezvous("env://", timeout=PATIENCE)))
    if number:
        os.environ["TQDM_DISABLE"] = "1"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=several, timeout=PATIENCE)
    try:
        if several != int(os.environ.get("LOCAL_WORLD_SIZE", several)):
            raise UserError(f"{several} processes on several machines", "expected all on one: they share a cache")
        yield
        distributed.all_reduce(torch.zeros(1, device=HOST))  # nobody leaves before the others are done
    except BaseException:
        before = 1
        with suppress(Exception):  # the store may be gone
            before = store.add("failed", 1) - 1
        if before:
            raise SystemExit(1) from None
        raise
    distributed.destroy_process_group()


def check_share(spec: QuantSpec) -> None:
    """UserError where the crops of a step cannot be shared out evenly."""
    if spec.method == "learned" and spec.accumulate % size():
        raise UserError(
            f"spec: accumulate is {spec.accumulate}, for {size()} processes",
            f"expected a multiple of {size()}: the crops of a step are shared out",
        )


def shared(items: Sequence[T]) -> Sequence[T]:
    """This process's share; item i is with process i modulo their number."""
    return items[rank() :: size()] if size() > 1 else items


def in_turn(count: int, compute: Callable[[int], Values]) -> Iterator[Values]:
    """compute(0), compute(1), …, each computed by one process and given to all, in order."""
    for start in range(0, count, size()):
        own = start + rank()
        values = compute(own) if own < count else None
        for index in range(start, min(start + size(), count)):
            yield exchanged(values, index - start)


def exchanged(values: Values | None, owner: int) -> Values:
    """What process `owner` has, for all: tensors, and numbers or tuples of them beside these."""
    if size() == 1:
        assert values is not None
        return values
    tensors: list[Tensor] = []
    header = json.dumps(_described(values, tensors)).encode() if rank() == owner else b""
    length = torch.tensor([len(header)], device=HOST)
    distributed.broadcast(length, owner)
    letters = torch.zeros(int(length), dtype=torch.uint8, device=HOST)
    if rank() == owner:
        letters = torch.tensor(list(header), dtype=torch.uint8, device=HOST)
    distributed.broadcast(letters, owner)
    waiting = iter(tensors)
    result: Values = _received(json.loads(bytes(letters.tolist())), owner, waiting)
    return result


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


def _received(described: Any, owner: int, own: Iterator[Tensor]) -> Any:
    if isinstance(described, list):
        return tuple(_received(entry, owner, own) for entry in described)
    if not isinstance(described, dict):
        return described
    dtype, shape = getattr(torch, described["tensor"]), described["shape"]
    device = HOST if described["on"] == HOST.type else torch.device("cuda", torch.cuda.current_device())
    tensor = next(own).contiguous() if rank() == owner else torch.empty(shape, dtype=dtype, device=device)
    distributed.broadcast(tensor.view(torch.uint8) if dtype is torch.bool else tensor, owner)
    return tensor


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up what the processes found for their crops of one step."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if size() == 1 or not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.reshape(gradient.shape))


def extremes(lows: Tensor, highs: Tensor) -> tuple[Tensor, Tensor]:
    """The least of the lows and the greatest of the highs of all processes."""
    if size() > 1:
        both = torch.cat([lows, -highs])
        distributed.all_reduce(both, distributed.ReduceOp.MIN)
        return both[: len(lows)].clone(), -both[len(lows) :]
    return lows, highs


def begin_alike(histograms: Mapping[str, Histogram], run_first: Callable[[], object]) -> None:
    """Bins that can be added up: every process sets them by the first sample, whoever counts it."""
    if size() > 1 and histograms:
        run_first()
        for histogram in histograms.values():
            histogram.restart()


def merge(histograms: Mapping[str, Histogram]) -> None:
    """Every process's counts in each."""
    if size() == 1 or not histograms:
        return
    found = list(histograms.values())
    reach = torch.tensor([[h.limit, h.maximum, -h.minimum] for h in found], dtype=torch.float64, device=HOST)
    distributed.all_reduce(reach, distributed.ReduceOp.MAX)
    for histogram, (limit, high, low) in zip(found, reach.tolist(), strict=True):
        histogram.widen(limit)
        histogram.maximum, histogram.minimum = high, -low
        distributed.all_reduce(histogram.counts)
