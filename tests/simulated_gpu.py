"""A GPU without a GPU: streams, events, two memories, contexts and graphs that mean what CUDA means by them.

Work on a stream waits there; events alone order streams. By itself an operation runs as late as it may, when the
host waits for something that needs it; with a seed any streams run ahead, as far as their waits allow. Whatever a
real device would punish, or worse not notice, is a `Fault`. Arithmetic is ONNX Runtime's. TensorRT is not here.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx
from passionsr_trt.engines.bundle.wiring import PartInfo, picture_size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.runtime.backends.host import Shapes
from passionsr_trt.runtime.backends.tensorrt.device import OutOfDeviceMemory

Entry = namedtuple("Entry", "when stream kind what")  # when: `queued`, `ran`, or `host`: done by the host itself


class Fault(Exception):
    """The code under test did what it must not do to a device."""


@dataclass(eq=False)
class Operation:
    """check: may a graph queue it again? clock: of each stream so many are over when it is. done: when it ran."""

    stream: Stream
    kind: str
    what: str
    work: Callable[[], object] = lambda: None
    check: Callable[[], bool] = lambda: False
    scratch: Buffer | None = None
    after: Operation | None = None
    clock: Counter[str] = field(default_factory=Counter)
    done: int = 0


class Event:
    latest: Operation | None = None


class Stream(Event):
    def __init__(self, name: str) -> None:
        self.name, self.waiting = name, deque[Operation]()


class Buffer(int):
    """Device memory, by its address. values: None where it was never written, which is poison: never copied."""

    size: int
    users: Counter[str]  # of scratch memory: every stream's last operation
    live = True
    values: np.ndarray | None = None

    def fits(self, size: int) -> Buffer:
        """Itself, where it may be used for `size` bytes."""
        if not self.live or size != self.size:
            raise Fault(f"{'wrong size' if self.live else 'use after free'}: {size} bytes of {self.size}")
        return self

    def read(self) -> np.ndarray:
        if self.fits(self.size).values is None:
            raise Fault(f"read of memory that was never written, at {self:#x}")
        return self.values  # type: ignore[return-value]

    def write(self, values: np.ndarray) -> None:
        self.fits(values.nbytes).values = values.copy()


class SimulatedDevice:
    """`Device`. seed: of the schedule. limit, peak: bytes. captures: False without cuda-python."""

    def __init__(self, seed: int | None = None, limit: int = 1 << 30, captures: bool = True) -> None:
        self.limit, self.captures = limit, captures
        self.memory: dict[int, Buffer] = {}
        self.log: list[Entry] = []
        self.counts: Counter[str] = Counter()  # of calls, by their kind
        self.failing: Counter[str] = Counter()  # kind of calls → the how manyth from now on raises a UserError
        self.live = self.peak = self.failed = self._inside = self._now = 0
        self.open: set[object] = {self}  # with engines and graphs, which must be closed before it
        self._random, self._ahead = random.Random(seed), (0,) if seed is None else (0, 1, 4, 16)
        self._streams: list[Stream] = []
        self.made: set[Event] = set()  # events and streams that were not given back
        self._over: Counter[str] = Counter()  # what the host knows to be over
        self._pinned: dict[int, np.ndarray] = {}
        self._recording: list[Operation] | None = None

    def call(self, kind: str, what: str = "", stream: str = "") -> None:
        """The host does something, or queues it on a stream: log it, fail where a test asked for it."""
        if self not in self.open or not self._inside or (self._recording is not None and kind != "enqueue"):
            raise Fault(f"{kind} on a closed device, without its context, or while a graph is captured")
        self.counts[kind] += 1
        self.log.append(Entry("queued" if stream else "host", stream, kind, what))
        self.failing[kind] -= 1
        if self.failing[kind] == 0:
            self.failed += 1
            raise UserError(f"{kind} failed, as the test asked")

    @contextmanager
    def current(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def stream(self) -> Stream:
        self._streams.append(Stream(("up", "work", "down")[len(self._streams)]))
        self.made.add(self._streams[-1])
        return self._streams[-1]

    def event(self) -> Event:
        event = Event()
        self.made.add(event)
        return event

    def destroy(self, made: Event) -> None:
        self.call("destroy")
        self.made.remove(self._here(made))

    def _here(self, made: Event) -> Event:
        """An event or a stream itself, where it was not given back."""
        if made not in self.made:
            raise Fault("use of an event or a stream that was destroyed")
        return made

    def allocate(self, size: int) -> Buffer:
        self.call("allocate", str(size))
        if self.live + size > self.limit:
            raise OutOfDeviceMemory(f"{size} bytes")
        self.live += size
        self.peak = max(self.peak, self.live)
        buffer = Buffer((len(self.memory) + 1) << 24)
        buffer.size, buffer.users = size, Counter()
        return self.memory.setdefault(buffer, buffer)

    def free(self, buffer: Buffer) -> None:
        self.call("free", str(buffer.fits(buffer.size).size))
        buffer.live, buffer.values = False, None
        self.live -= buffer.size

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        self.call("pinned")
        array = np.full(shape, np.nan, np.float32)
        return self._pinned.setdefault(id(array), array)

    def unpin(self, array: np.ndarray) -> None:
        self._pin(array).fill(np.nan)
        del self._pinned[id(array)]

    def _pin(self, array: np.ndarray, checksum: int | None = None) -> np.ndarray:
        if id(array) not in self._pinned or checksum not in (None, zlib.crc32(array.tobytes())):
            raise Fault("host memory that is not pinned any more, or was written while its upload waited")
        return array

    def upload(self, target: Buffer, source: np.ndarray, stream: Stream) -> None:
        checksum = zlib.crc32(self._pin(source).tobytes())
        target.fits(source.nbytes)
        self.put(Operation(stream, "upload", hex(target), lambda: target.write(self._pin(source, checksum))))

    def copy(self, target: Buffer, source: Buffer, size: int, stream: Stream) -> None:
        source.fits(size), target.fits(size)
        self.put(Operation(stream, "copy", hex(source), lambda: target.write(source.read())))

    def download(self, target: np.ndarray, source: Buffer, stream: Stream) -> None:
        source.fits(target.nbytes)
        self._pin(target).fill(np.nan)  # until it has come
        self.put(Operation(stream, "download", hex(source), lambda: np.copyto(self._pin(target), source.read())))

    def record(self, event: Event, stream: Stream) -> None:
        self._here(event).latest = self.put(Operation(stream, "record", ""))

    def wait(self, event: Event, stream: Stream) -> None:
        self.put(Operation(stream, "wait", "", after=self._here(event).latest))

    def synchronize(self, event: Event) -> None:
        self.call("drain" if isinstance(event, Stream) else "synchronize")
        self._run_until(self._here(event).latest)
        self._over |= event.latest.clock if event.latest else Counter()

    drain = synchronize

    def seconds_between(self, start: Event, end: Event) -> float:
        if not all(event.latest and event.latest.done for event in (start, end)):
            raise Fault("the time between events that are not over")
        return float(end.latest.done - start.latest.done)  # type: ignore[union-attr]

    def capture(self, work: Callable[[], None], stream: Stream) -> SimulatedGraph | None:
        self.call("capture", stream.name)
        graph = SimulatedGraph(self, [])
        self._recording = graph.recorded
        try:
            with suppress(UserError):
                work()
                self.open |= {graph} if self.captures else set()
        finally:
            self._recording = None
        return graph if graph in self.open else None

    def free_memory(self) -> int:
        return self.limit - self.live

    def close(self) -> None:
        self.open.remove(self)
        waiting = sum(len(each.waiting) for each in self._streams)
        left = self.live, len(self._pinned), waiting, len(self.open), len(self.made)
        if any(left):
            kinds = "{} bytes, {} pinned arrays, {} operations, {} engines or graphs, {} events or streams"
            raise Fault(f"leak: {kinds.format(*left)}")

    def put(self, operation: Operation) -> Operation:
        if self._recording is not None:
            self._recording.append(operation)
            return operation
        stream = operation.stream
        self.call(operation.kind, operation.what, stream.name)
        clock = self._over.copy()
        for before in (stream.latest, operation.after):
            clock |= before.clock if before else Counter()
        clock[stream.name] += 1
        users = operation.scratch.users if operation.scratch else Counter()
        if users - clock:
            raise Fault("two streams work in one scratch memory at once")
        users[stream.name] = clock[stream.name]
        stream.latest = replace(operation, clock=clock)
        stream.waiting.append(stream.latest)
        for each in self._random.choices(self._streams, k=self._random.choice(self._ahead)):
            if each.waiting and ((before := each.waiting[0].after) is None or before.done):
                self._run_until(each.waiting[0])
        return stream.latest

    def _run_until(self, operation: Operation | None) -> None:
        """An operation, and nothing but what it needs before it."""
        while operation and not operation.done:
            head = operation.stream.waiting[0]
            self._run_until(head.after)
            head.work()
            operation.stream.waiting.popleft()
            self._now = head.done = self._now + 1
            self.log.append(Entry("ran", head.stream.name, head.kind, head.what))


@dataclass(eq=False)
class SimulatedGraph:
    """What was captured; it holds for the addresses of that time."""

    device: SimulatedDevice
    recorded: list[Operation]

    def launch(self) -> None:
        self.device.call("launch")
        for operation in self.recorded:
            if self not in self.device.open or not operation.check():
                raise Fault("stale graph: it or its memory was freed, or its context bound to other memory")
            self.device.put(operation)

    def free(self) -> None:
        self.device.open.remove(self)


class SimulatedEngine:
    """`DeviceEngine` of an ONNX graph, built for at most `most` pixels at once. scratch: bytes for each."""

    def __init__(self, graph: onnx.ModelProto, part: PartInfo, device: SimulatedDevice, most: int) -> None:
        self.part, self.device, self.most, self.scratch = part, device, most, 24
        self.session = reference_session(graph, threads=1)
        self.most_scratch = self.scratch * most
        device.open.add(self)

    def context(self, shapes: Shapes) -> SimulatedContext:
        size, batch = picture_size(self.part.inputs, shapes), next(iter(shapes.values()))[0]
        if self.part.shapes(size, batch) != dict(shapes) or self not in self.device.open:
            raise Fault(f"{self.part.name}: {dict(shapes)} are no inputs of it, or it was closed")
        if batch * prod(size) > self.most:
            raise UserError(f"{self.part.name}: shape {dict(shapes)} is outside what the engine was built for")
        shapes = {**shapes, self.part.output.name: self.part.output.at(size, batch)}
        return SimulatedContext(self, shapes, self.scratch * batch * prod(size))

    def close(self) -> None:
        self.device.open.remove(self)


@dataclass
class SimulatedContext:
    """An engine for inputs of one shape. bound: tensors, and scratch memory under the name "" ."""

    engine: SimulatedEngine
    shapes: Shapes
    scratch: int
    bound: Mapping[str, Buffer] = field(default_factory=dict)

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        memory, shapes = self.engine.device.memory, self.shapes
        tensors = {name: memory[addresses[name]].fits(4 * prod(shape)) for name, shape in shapes.items()}
        self.bound = {**tensors, "": memory[scratch].fits(max(self.scratch, memory[scratch].size))}

    def enqueue(self, stream: Stream) -> None:
        part, bound = self.engine.part, self.bound
        self.engine.device.call("enqueue", part.name)

        def work() -> None:
            """Poison from poison: graphs are captured when nothing has come into their memory."""
            values = {name: buffer.fits(buffer.size).values for name, buffer in bound.items()}
            feed = {tensor.name: values[tensor.name] for tensor in part.inputs}
            poison = any(value is None for value in feed.values())
            bound[part.output.name].values = None if poison else self.engine.session.run(None, feed)[0]

        check = lambda: bound == self.bound and all(buffer.live for buffer in bound.values())  # noqa: E731
        self.engine.device.put(Operation(stream, "run", part.name, work, check, bound[""]))
