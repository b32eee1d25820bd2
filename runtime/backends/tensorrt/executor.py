"""Jobs on a GPU: three streams, two jobs under way, buffers and graphs kept for the last shapes.

The next job's inputs go up and the last one's results come down while the GPU computes (buffers.py). Between the
parts of one job nothing leaves the device. Scratch memory is shared by all engines and only grows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.host import shapes_of
from passionsr_trt.runtime.backends.tensorrt.buffers import SLOTS, Buffers, Slot, every
from passionsr_trt.runtime.backends.tensorrt.device import Device, OutOfDeviceMemory
from passionsr_trt.runtime.backends.tensorrt.engine import DeviceEngine
from passionsr_trt.runtime.core.chain import Arrays, Done

# for as many combinations of parts and shapes: pictures of two sizes, each part's tiles and their rest
KEPT_BUFFERS, USUAL_PARTS = 8, 3

T = TypeVar("T")


@dataclass(eq=False)
class Ticket:
    """A job under way. done, error: what became of it, where that had to be known before anybody asked."""

    buffers: Buffers
    slot: Slot
    done: Done | None = None
    error: UserError | None = None


class DeviceExecutor:
    """Engines of one bundle on one device; use from any thread, one at a time.

    graphs: capture every part as a CUDA graph. `close` frees everything, the device as well.
    """

    depth = SLOTS
    ragged = True

    def __init__(self, device: Device, engines: Mapping[str, DeviceEngine], graphs: bool = True) -> None:
        self.device, self.engines, self.graphs = device, dict(engines), graphs
        self._kept: OrderedDict[Any, Buffers] = OrderedDict()
        self._under_way: list[Ticket] = []
        self._scratch: Any = None
        self._scratch_size = 0
        self._closed = False
        self._streams: list[Any] = []
        with device.current():
            try:
                for _ in range(3):
                    self._streams.append(device.stream())
            except BaseException:
                with suppress(Exception):  # what failed first is told
                    every(partial(device.destroy, stream) for stream in self._streams)
                raise
        self._up, self._work, self._down = self._streams

    def submit(self, parts: Sequence[PartInfo], inputs: Arrays, keep: Collection[str]) -> Ticket:
        """Put a job's whole work on the streams."""
        with self.device.current():
            if len(self._under_way) >= self.depth:
                raise UserError(f"{len(self._under_way) + 1} jobs at once", f"expected at most {self.depth}")
            buffers = self._buffers(parts, inputs, keep)
            slot = next(slot for slot in buffers.slots if not slot.busy)
            try:
                self._enqueue(buffers, slot, inputs)
            except BaseException:
                self._settle()
                raise
            slot.busy = True
            ticket = Ticket(buffers, slot)
            self._under_way.append(ticket)
            return ticket

    def _enqueue(self, buffers: Buffers, slot: Slot, inputs: Arrays) -> None:
        device = self.device
        for name in buffers.inputs:
            slot.host_in[name][...] = inputs[name]
            device.upload(slot.staged_in[name], slot.host_in[name], self._up)
        device.record(slot.uploaded, self._up)
        device.wait(slot.uploaded, self._work)
        for name in buffers.inputs:
            device.copy(buffers.memory[name], slot.staged_in[name], slot.host_in[name].nbytes, self._work)
        device.record(slot.marks[0], self._work)
        for index in range(len(buffers.parts)):
            buffers.launch(index, self._work)
            device.record(slot.marks[index + 1], self._work)
        for name in buffers.keep:
            device.copy(slot.staged_out[name], buffers.memory[name], slot.host_out[name].nbytes, self._work)
        device.record(slot.computed, self._work)
        device.wait(slot.computed, self._down)
        for name in buffers.keep:
            device.download(slot.host_out[name], slot.staged_out[name], self._down)
        device.record(slot.downloaded, self._down)

    def collect(self, ticket: Ticket) -> Done:
        """Wait for a job: arrays of their own, and the seconds of its parts without the copies."""
        if ticket.error is not None:
            raise ticket.error
        with self.device.current():
            return ticket.done or self._finish(ticket)

    def _finish(self, ticket: Ticket) -> Done:
        """Take a job's result; its slot is free again, whatever became of it."""
        buffers, slot = ticket.buffers, ticket.slot
        try:
            self.device.synchronize(slot.downloaded)
            tensors = {name: array.copy() for name, array in slot.host_out.items()}
            times = zip(buffers.parts, slot.marks, slot.marks[1:], strict=False)
            seconds = {part.name: self.device.seconds_between(start, end) for part, start, end in times}
        except BaseException:
            self._settle()  # the job may still use its slot
            raise
        finally:
            slot.busy = False
            self._under_way.remove(ticket)
        return Done(tensors, seconds)

    def close(self) -> None:
        """Free graphs, buffers, engines, the device; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(UserError), self.device.current():
                self._give_back()
        finally:
            self._kept.clear()
            self._under_way.clear()
            self.engines.clear()
            self._streams.clear()
            del self._up, self._work, self._down
            self.device.close()

    def _give_back(self) -> None:
        """Everything on the device; what fails is raised when all of it was tried."""
        device = self.device
        every(
            [
                self._drain,
                *(buffers.free for buffers in self._kept.values()),
                *([] if self._scratch is None else [partial(device.free, self._scratch)]),
                *(engine.close for engine in self.engines.values()),
                *(partial(device.destroy, stream) for stream in self._streams),
            ]
        )

    def held(self) -> int:
        """Bytes of buffers that would be given up for others."""
        return sum(buffers.size for buffers in self._kept.values()) + self._scratch_size

    def _buffers(self, parts: Sequence[PartInfo], inputs: Arrays, keep: Collection[str]) -> Buffers:
        """Contexts, buffers and graphs for a job's shapes: those that are there, or new ones."""
        shapes = shapes_of(parts, inputs)
        key = tuple(part.name for part in parts), tuple(sorted(shapes.items())), tuple(keep)
        buffers = self._kept.pop(key, None)
        known = buffers is not None
        if buffers is None:
            most = KEPT_BUFFERS + 2 * max(len(self.engines) - USUAL_PARTS, 0)
            while len(self._kept) >= most and self._drop_one():
                pass
            buffers = self._with_room(lambda: Buffers.make(self.device, self.engines, parts, shapes, keep))
        try:
            if self._scratch is None or buffers.needs_scratch > self._scratch_size:
                self._grow_scratch(buffers.needs_scratch)
            if buffers.bind(self._scratch) and self.graphs:
                buffers.capture(self._work)
        except BaseException:
            self._settle()
            if known:  # a job of it may be under way
                buffers.scratch = None  # bound and captured again when it is used
                self._kept[key] = buffers
            else:
                with suppress(Exception):  # what failed first is told
                    buffers.free()
            raise
        self._kept[key] = buffers
        return buffers

    def _grow_scratch(self, size: int) -> None:
        """Memory that all engines work in, one after another; a larger one is at another address."""
        self._drain()
        if self._scratch is not None:
            self.device.free(self._scratch)
            self._scratch, self._scratch_size = None, 0
        self._scratch = self._with_room(lambda: self.device.allocate(size))
        self._scratch_size = size

    def _with_room(self, make: Callable[[], T]) -> T:
        """What takes memory; where there is none, buffers that are idle make room, and then those that are not."""
        while True:
            try:
                return make()
            except OutOfDeviceMemory:
                if self._drop_one():
                    continue
                if not self._under_way:
                    raise
                for ticket in list(self._under_way):
                    try:
                        ticket.done = self._finish(ticket)
                    except UserError as error:  # is told to who asks for that job
                        ticket.error = error

    def _drop_one(self) -> bool:
        """Free those that were not used for longest, of those that nothing waits for."""
        for key, buffers in self._kept.items():
            if not buffers.busy:
                self._drain()
                del self._kept[key]
                buffers.free()
                return True
        return False

    def _drain(self) -> None:
        """Wait for all that is under way."""
        every(partial(self.device.drain, stream) for stream in self._streams)

    def _settle(self) -> None:
        """Wait for all that is under way after a failure, which is told rather than one of waiting."""
        with suppress(Exception):
            self._drain()
