"""One body for every `Device`: the simulated one, and cuda-python's and pycuda's where there is a driver.

On a GPU the real ones run here. On a driver without a GPU they do too: tests/runtime/test_null_driver.py begins
another process for that, and looks for leaks when it ends.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.tensorrt.library import has_driver
from passionsr_trt.runtime.backends.host import Shapes
from passionsr_trt.runtime.backends.tensorrt.bindings import BINDINGS
from passionsr_trt.runtime.backends.tensorrt.buffers import Buffers, Slot
from passionsr_trt.runtime.backends.tensorrt.chain import DeviceMemory
from passionsr_trt.runtime.backends.tensorrt.device import Device, OutOfDeviceMemory
from passionsr_trt.runtime.backends.tensorrt.engine import Context, DeviceEngine
from passionsr_trt.runtime.backends.tensorrt.executor import DeviceExecutor
from passionsr_trt.runtime.core.chain import Chain

from tests.driver_engine import DriverEngine, driver_call
from tests.simulated_gpu import SimulatedDevice, SimulatedEngine
from tests.tiny_chain import MODEL, MOST, PARTS, begin, compare, everything, graph_of, pictures, same, sources

REAL = [binding.name for binding in BINDINGS]
KEPT = "passionsr_trt.runtime.backends.tensorrt.executor.KEPT_BUFFERS"
Raising = Callable[[], None]


def opened(name: str) -> Device:
    """The device that a test's parameter names; skipped where the machine has none."""
    if name == "simulated":
        return SimulatedDevice()
    binding = next(each for each in BINDINGS if each.name == name)
    if not has_driver():
        pytest.skip("no NVIDIA driver")
    if problem := binding.problem():
        pytest.skip(f"{name}: {problem}")
    return binding.open()


class Troubled:
    """An engine whose enqueues do what `trouble` says, by their number among those of all parts, and go on."""

    def __init__(self, engine: DeviceEngine, trouble: Mapping[int, Raising], count: list[int]) -> None:
        self.engine, self.trouble, self.count = engine, trouble, count
        self.most_scratch, self.close = engine.most_scratch, engine.close

    def context(self, shapes: Shapes) -> Context:
        context = self.engine.context(shapes)
        enqueue = context.enqueue

        def troubled(stream: Any) -> None:
            self.count[0] += 1
            enqueue(stream)
            self.trouble.get(self.count[0], lambda: None)()

        context.enqueue = troubled  # type: ignore[method-assign]
        return context


def chain_on(device: Device, graphs: bool = True, trouble: Mapping[int, Raising] | None = None) -> Chain:
    kind: Any = SimulatedEngine if isinstance(device, SimulatedDevice) else DriverEngine
    count = [0]
    engines = {
        part.name: Troubled(kind(graph_of(part), part, device, MOST), trouble or {}, count) for part in PARTS
    }
    executor = DeviceExecutor(device, engines, graphs)
    return Chain(MODEL, PARTS, executor, "tried", memory=DeviceMemory(executor, PARTS, MOST))


@pytest.fixture(params=["simulated", *REAL])
def device(request: pytest.FixtureRequest) -> Device:
    return opened(request.param)


@pytest.fixture
def real(device: Device) -> Iterator[Device]:
    """Not the simulated one; closed at the end."""
    if isinstance(device, SimulatedDevice):
        pytest.skip("of a real driver's")
    yield device
    device.close()


@pytest.fixture
def chain(device: Device) -> Iterator[Chain]:
    yield (chain := chain_on(device))
    chain.close()


@pytest.mark.parametrize(("graphs", "kept"), [(True, 8), (True, 1), (False, 8), (False, 1)])
def test_the_executor_gives_what_onnx_runtime_gives(device: Device, graphs: bool, kept: int) -> None:
    chain = chain_on(device, graphs)
    with patch(KEPT, kept):
        compare(chain)
    captured = [
        graph is not None
        for each in chain.executor._kept.values()
        for graph in each.graphs  # type: ignore[attr-defined]
    ]
    assert captured and all(captured) if graphs else not captured
    chain.close()
    chain.close()


def test_any_thread_may_call(chain: Chain) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            same(chain, (16, 24), (24, 16))
        except BaseException as error:
            failed.append(error)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    same(chain, (16, 24))
    assert not failed


def refuse() -> None:
    raise UserError("not in a graph")


def fail() -> None:
    raise ZeroDivisionError


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


CAPTURED = len(PARTS) + 2  # the second part's enqueue that is captured: each part ran once before


def test_a_part_that_cannot_be_captured_runs_without_a_graph(device: Device) -> None:
    chain = chain_on(device, trouble={CAPTURED: refuse})
    same(chain, (16, 24), (16, 24))
    (buffers,) = chain.executor._kept.values()  # type: ignore[attr-defined]
    assert [graph is None for graph in buffers.graphs] == [False, True, False]
    same(chain, (24, 16), (16, 24))
    chain.close()


@pytest.mark.parametrize(
    ("trouble", "kind"), [(fail, ZeroDivisionError), (interrupt, KeyboardInterrupt)], ids=["error", "SIGINT"]
)
@pytest.mark.parametrize("at", [CAPTURED, 2, 3 * len(PARTS) + 1], ids=["captured", "before", "another shape"])
def test_what_is_raised_while_a_part_is_enqueued_is_told_and_all_else_is_right(
    device: Device, trouble: Raising, kind: type[BaseException], at: int
) -> None:
    chain = chain_on(device, trouble={at: trouble})
    with pytest.raises(kind):
        list(pictures(chain, (16, 24), (24, 16), (16, 24)))
    same(chain, (16, 24), (24, 16), (16, 24))
    compare(chain)
    chain.close()


@pytest.mark.parametrize("times", [1, 31])
@pytest.mark.parametrize("trouble", [refuse, fail, interrupt], ids=["refused", "error", "SIGINT"])
def test_a_capture_that_fails_leaves_the_stream_as_it_was(device: Device, trouble: Raising, times: int) -> None:
    with device.current():
        capture_in_vain(device, trouble, times)
    device.close()


def capture_in_vain(device: Device, trouble: Raising, times: int) -> None:
    """And use the stream after it; pycuda destroys what this function made when it ends."""
    stream, event = device.stream(), device.event()
    buffers = [device.allocate(64) for _ in range(2)]
    values = device.pinned((16,))

    def work() -> None:
        if not isinstance(device, SimulatedDevice):  # which captures an engine's work alone
            device.copy(buffers[1], buffers[0], 64, stream)
        trouble()

    for _ in range(times):
        try:
            assert device.capture(work, stream) is None and trouble is refuse
        except (ZeroDivisionError, KeyboardInterrupt):
            assert trouble is not refuse
    values[...] = np.arange(16)
    device.upload(buffers[0], values, stream)
    device.copy(buffers[1], buffers[0], 64, stream)
    device.drain(stream)
    values[...] = 0
    device.download(values, buffers[1], stream)
    device.record(event, stream)
    device.synchronize(event)
    assert values.tolist() == list(range(16))
    device.unpin(values)
    for buffer in buffers:
        device.free(buffer)
    for made in (stream, event):
        device.destroy(made)


def test_a_job_is_not_lost_where_the_next_one_is_interrupted(device: Device) -> None:
    chain = chain_on(device, trouble={4 * len(PARTS): interrupt})
    ticket = begin(chain, sources((16, 24)))
    with pytest.raises(KeyboardInterrupt):
        begin(chain, sources((24, 16)))
    assert np.isfinite(chain.executor.collect(ticket).tensors["picture"]).all()
    chain.close()


def test_out_of_memory_is_its_own_error_and_the_executor_makes_room(device: Device) -> None:
    with device.current(), pytest.raises(OutOfDeviceMemory, match="out of GPU memory"):
        device.allocate(1 << 50)
    chain = chain_on(device)
    same(chain, (48, 48))
    with device.current():
        hog = device.allocate(device.free_memory() - (128 << 10))
    for size in ((40, 48), (48, 40), (48, 48)):
        same(chain, size)
    with pytest.raises(UserError, match="out of GPU memory"):
        list(pictures(chain, (96, 96)))
    with device.current():
        device.free(hog)
    same(chain, (96, 96), (48, 48))
    chain.close()


def test_streams_do_not_wait_for_the_default_stream(real: Device) -> None:
    with real.current():
        stream, flags = real.stream(), ctypes.c_uint()
        driver_call("cuStreamGetFlags", int(stream.handle), ctypes.byref(flags))
        real.destroy(stream)
        del stream
    assert flags.value == 1, "CU_STREAM_NON_BLOCKING"


@pytest.mark.parametrize("name", REAL)
def test_no_context_is_left_on_the_thread(name: str) -> None:
    real, context = opened(name), ctypes.c_void_p()
    for trouble in (lambda: None, refuse, interrupt):
        try:
            with real.current(), real.current():
                trouble()
        except (UserError, KeyboardInterrupt):
            pass
        driver_call("cuCtxGetCurrent", ctypes.byref(context))
        assert not context.value
    thread = threading.Thread(target=real.close)
    thread.start()
    thread.join()
    opened(name).close()
    driver_call("cuCtxGetCurrent", ctypes.byref(context))
    assert not context.value


def test_planted_misuse_is_one_line(real: Device) -> None:
    with real.current():
        buffer = real.allocate(64)
    with pytest.raises(UserError, match="CUDA failed") as raised, real.current():
        stream = real.stream()
        real.copy(int(buffer) + (1 << 46), int(buffer), 64, stream)
        real.drain(stream)
    assert "\n" not in str(raised.value)


def every_other(call: Callable[..., None], kept: int) -> Callable[..., None]:
    """A method of which only the calls number `kept`, `kept` + 2, … are made."""
    number = [0]

    def made(*arguments: Any) -> None:
        number[0] += 1
        if number[0] % 2 == kept % 2:
            call(*arguments)

    return made


NO = property(lambda _: False, lambda *_: None)
CAPTURE, BIND, QUEUE = Buffers.capture, Buffers.bind, DeviceExecutor._enqueue
FAULTS: dict[str, Callable[[Any], tuple[type, dict[str, Any]]]] = {  # of the device's class
    "early read": lambda kind: (kind, {"synchronize": lambda *_: 0, "seconds_between": lambda *_: 0}),
    "early overwrite": lambda _: (Slot, {"busy": NO}),
    "no wait for the upload": lambda kind: (kind, {"wait": every_other(kind.wait, 2)}),
    "no wait for the result": lambda kind: (kind, {"wait": every_other(kind.wait, 1)}),
    "stale graph": lambda _: (
        Buffers,
        {"drop_graphs": lambda _: 0, "capture": lambda *a: a[0].graphs or CAPTURE(*a)},
    ),
    "stale addresses": lambda _: (Buffers, {"bind": lambda *a: a[0].scratch is None and BIND(*a)}),
    "lost tile": lambda _: (DeviceExecutor, {"_enqueue": lambda *a: len(a[1].parts) == a[1].busy or QUEUE(*a)}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", REAL)
def test_a_planted_fault_is_found(name: str, fault: str) -> None:
    device = opened(name)
    owner, planted = FAULTS[fault](type(device))
    with patch.multiple(owner, **planted), patch(KEPT, 1), pytest.raises((AssertionError, UserError)):
        compare(chain_on(device), everything)
