"""Everything that some parts need on the GPU for inputs of one shape: contexts, buffers, captured graphs.

    host_in[slot] → staged_in[slot] → memory … parts … memory → staged_out[slot] → host_out[slot]
         upload stream          |         work stream         |         download stream

Parts read and write `memory`, whose addresses never change, so that graphs stay valid. Staging comes in pairs
(slots): while one job is computed, the next one's inputs go up and the last one's results come down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.runtime.backends.host import Shapes
from passionsr_trt.runtime.backends.tensorrt.device import Device, Graph
from passionsr_trt.runtime.backends.tensorrt.engine import Context, DeviceEngine

SLOTS = 2


@dataclass
class Slot:
    """Staging of one job. busy: from its submission until its result was taken."""

    host_in: dict[str, np.ndarray]
    host_out: dict[str, np.ndarray]
    staged_in: dict[str, Any]
    staged_out: dict[str, Any]
    uploaded: Any
    computed: Any
    downloaded: Any
    marks: list[Any]  # before the first part and after each
    busy: bool = False

    def forget(self) -> None:
        """Its events, which pycuda destroys when nobody refers to them: a ticket may outlive the device."""
        self.uploaded = self.computed = self.downloaded = None
        self.marks.clear()


@dataclass
class Buffers:
    """parts in their order, shapes of every tensor, `keep`: those that are given back."""

    parts: Sequence[PartInfo]
    shapes: Shapes
    keep: tuple[str, ...]
    device: Device
    contexts: list[Context] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)  # of all slots
    graphs: list[Graph | None] = field(default_factory=list)
    scratch: Any = None  # what contexts were bound to

    @classmethod
    def make(
        cls,
        device: Device,
        engines: Mapping[str, DeviceEngine],
        parts: Sequence[PartInfo],
        shapes: Shapes,
        keep: Collection[str],
    ) -> Buffers:
        """Contexts and buffers; all of it is freed again where the device has no room."""
        buffers = cls(parts, shapes, tuple(keep), device)
        try:
            for part in parts:
                own = {tensor.name: shapes[tensor.name] for tensor in part.inputs}
                buffers.contexts.append(engines[part.name].context(own))
            for name, shape in shapes.items():
                buffers.memory[name] = device.allocate(bytes_of(shape))
            for _ in range(SLOTS):
                buffers._add_slot()
        except BaseException:
            with suppress(Exception):  # what failed first is told
                buffers.free()
            raise
        return buffers

    @property
    def inputs(self) -> list[str]:
        """Names of tensors that come from outside."""
        given = {part.output.name for part in self.parts}
        return [name for name in self.shapes if name not in given]

    @property
    def needs_scratch(self) -> int:
        return max(context.scratch for context in self.contexts)

    @property
    def busy(self) -> bool:
        return any(slot.busy for slot in self.slots)

    @property
    def size(self) -> int:
        """Bytes on the device."""
        staged = sum(bytes_of(self.shapes[name]) for name in (*self.inputs, *self.keep))
        return sum(map(bytes_of, self.shapes.values())) + SLOTS * staged

    def bind(self, scratch: Any) -> bool:
        """Give contexts their addresses; graphs captured with others are gone. False where nothing changed."""
        if scratch is self.scratch:
            return False
        self.drop_graphs()
        for part, context in zip(self.parts, self.contexts, strict=True):
            names = [*(tensor.name for tensor in part.inputs), part.output.name]
            context.bind({name: int(self.memory[name]) for name in names}, int(scratch))
        self.scratch = scratch
        return True

    def capture(self, stream: Any) -> None:
        """Every part as a graph, after it ran once."""
        for context in self.contexts:
            context.enqueue(stream)
        self.device.drain(stream)
        for context in self.contexts:  # one by one: those before a failure are freed with the rest
            self.graphs.append(self.device.capture(partial(context.enqueue, stream), stream))

    def launch(self, index: int, stream: Any) -> None:
        """One part, as its graph where there is one."""
        graph = self.graphs[index] if self.graphs else None
        if graph is None:
            self.contexts[index].enqueue(stream)
        else:
            graph.launch()

    def drop_graphs(self) -> None:
        graphs, self.graphs = self.graphs, []
        every(graph.free for graph in graphs if graph is not None)

    def free(self) -> None:
        """Give everything back; nothing may be under way. What fails is raised when all of it was tried."""
        slots, memory, self.slots, self.memory = self.slots, self.memory, [], {}
        events, self.events = self.events, []
        arrays = [array for slot in slots for array in (*slot.host_in.values(), *slot.host_out.values())]
        staged = [buffer for slot in slots for buffer in (*slot.staged_in.values(), *slot.staged_out.values())]
        every(
            [
                self.drop_graphs,
                *(partial(self.device.unpin, array) for array in arrays),
                *(partial(self.device.free, buffer) for buffer in (*staged, *memory.values())),
                *(slot.forget for slot in slots),
                *(partial(self.device.destroy, event) for event in events),
                self.contexts.clear,
            ]
        )

    def _event(self) -> Any:
        self.events.append(self.device.event())
        return self.events[-1]

    def _add_slot(self) -> None:
        device, shapes = self.device, self.shapes
        marks = [self._event() for _ in range(len(self.parts) + 1)]
        slot = Slot({}, {}, {}, {}, self._event(), self._event(), self._event(), marks)
        self.slots.append(slot)  # first, so that what was allocated is freed where the next fails
        for names, host, staged in (
            (self.inputs, slot.host_in, slot.staged_in),
            (self.keep, slot.host_out, slot.staged_out),
        ):
            for name in names:
                staged[name] = device.allocate(bytes_of(shapes[name]))
                host[name] = device.pinned(shapes[name])


def every(works: Iterable[Callable[[], object]]) -> None:
    """Do all of it, whatever fails; the first error is raised after."""
    errors = []
    for work in works:
        try:
            work()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def bytes_of(shape: tuple[int, ...]) -> int:
    return 4 * int(np.prod(shape))
