"""The order of work on a GPU, proved on a simulated one; of TensorRT itself it says nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.host import shapes_of
from passionsr_trt.runtime.backends.tensorrt.buffers import Buffers, Slot
from passionsr_trt.runtime.backends.tensorrt.chain import DeviceMemory
from passionsr_trt.runtime.backends.tensorrt.executor import DeviceExecutor
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.files import upscale_all
from passionsr_trt.runtime.core.planning import Tiles, need
from passionsr_trt.runtime.core.tiling import run_picture
from passionsr_trt.runtime.core.upscaler import Options, super_resolve_all
from PIL import Image

from tests.conftest import ROOT
from tests.simulated_gpu import Fault, SimulatedDevice, SimulatedEngine
from tests.tiny_chain import (
    MODEL,
    MOST,
    PARTS,
    begin,
    compare,
    graph_of,
    host,
    pictures,
    same,
    sources,
    tiled,
    tiles_of,
)

KEPT = "passionsr_trt.runtime.backends.tensorrt.executor.KEPT_BUFFERS"


def simulated(device: SimulatedDevice, graphs: bool = True) -> Chain:
    engines = {part.name: SimulatedEngine(graph_of(part), part, device, MOST) for part in PARTS}
    executor = DeviceExecutor(device, engines, graphs)
    return Chain(MODEL, PARTS, executor, "simulated", memory=DeviceMemory(executor, PARTS, MOST))


@pytest.fixture
def device() -> SimulatedDevice:
    return SimulatedDevice()


@pytest.fixture
def chain(device: SimulatedDevice) -> Iterator[Chain]:
    yield (chain := simulated(device))
    chain.close()


@pytest.mark.parametrize("seed", [None, *range(8)])
@pytest.mark.parametrize(("graphs", "captures", "kept"), [(1, 1, 8), (1, 1, 1), (1, 0, 8), (0, 1, 1)])
def test_a_device_gives_what_onnx_runtime_gives(seed: int | None, graphs: int, captures: int, kept: int) -> None:
    device = SimulatedDevice(seed, captures=bool(captures))
    chain = simulated(device, bool(graphs))
    with patch(KEPT, kept):
        compare(chain)
    assert (device.counts["launch"] > 0) == bool(graphs and captures)
    chain.close()


QUEUE, WAIT, BIND, CAPTURE = DeviceExecutor._enqueue, SimulatedDevice.wait, Buffers.bind, Buffers.capture
NO, NAN, DEVICE = property(lambda _: False, lambda *_: None), "nan location mismatch", SimulatedDevice
FAULTS: dict[str, tuple[type, dict[str, Any], str]] = {  # whose methods are replaced, by what, what finds it
    "early read": (DEVICE, {"synchronize": lambda *_: 0, "seconds_between": lambda *_: 0}, NAN),
    "early overwrite": (Slot, {"busy": NO}, "written while its upload waited|Mismatched"),
    "no wait for the upload": (DEVICE, {"wait": lambda *a: a[2].name == "work" or WAIT(*a)}, "never written"),
    "no wait for the result": (DEVICE, {"wait": lambda *a: a[2].name == "down" or WAIT(*a)}, "never written"),
    "scratch freed": (DeviceExecutor, {"_drain": lambda _: None}, "use after free"),
    "buffers freed": (Buffers, {"busy": NO}, "that was destroyed"),
    "stale graph": (
        Buffers,
        {"drop_graphs": lambda _: 0, "capture": lambda *a: a[0].graphs or CAPTURE(*a)},
        "stale",
    ),
    "stale addresses": (Buffers, {"bind": lambda *a: a[0].scratch is None and BIND(*a)}, "stale"),
    "lost tile": (DeviceExecutor, {"_enqueue": lambda *a: len(a[1].parts) == a[1].busy or QUEUE(*a)}, "not over"),
}


@pytest.mark.parametrize(("fault", "seeds"), [*((name, [None]) for name in FAULTS), ("early overwrite", range(8))])
def test_a_planted_fault_is_found(fault: str, seeds: Sequence[int | None]) -> None:
    owner, planted, message = FAULTS[fault]
    with patch.multiple(owner, **planted), patch(KEPT, 1), pytest.raises((Fault, AssertionError), match=message):
        for seed in seeds:
            compare(simulated(SimulatedDevice(seed)))


FEW, SEEDS, LIMITS = st.integers(1, 3), st.integers(0, 99), st.sampled_from((80_000, 1 << 30))
SIZES = st.sampled_from([(16, 16), (24, 32), (40, 48)])
STREAM, LIST = st.builds(partial, st.just(pictures), batch=FEW, most=FEW, seed=SEEDS), st.lists(SIZES, max_size=5)
WORK = st.one_of(
    st.builds(lambda run, sizes: lambda chain: run(chain, *sizes), STREAM, LIST),
    st.builds(lambda size, *how: partial(tiled, size=size, tiles=tiles_of(*how)), SIZES, FEW, SIZES, SIZES, SIZES),
    st.tuples(st.sampled_from(("enqueue", "allocate", "synchronize")), st.integers(1, 15)),
)


@settings(deadline=None, max_examples=80)
@given(st.lists(WORK, max_size=8), st.none() | SEEDS, st.booleans(), LIMITS)
def test_after_failures_all_else_is_right(work: list[Any], seed: int | None, graphs: bool, limit: int) -> None:
    device = SimulatedDevice(seed, limit)
    chain = simulated(device, graphs)
    for each in work:
        failed = device.failed
        try:
            dict.update(device.failing, [each]) if isinstance(each, tuple) else compare(chain, each)
        except UserError as error:
            assert device.failed > failed or (limit == 80_000 and "out of GPU memory" in str(error))
    device.failing.clear()
    device.limit = 1 << 30
    same(chain, *[(16, 16)] * 3)
    chain.close()


def test_the_next_picture_goes_up_meanwhile(chain: Chain, device: SimulatedDevice, tmp_path: Path) -> None:
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (10, 12, 3), np.uint8)) for n in range(20)]
    pairs = {tmp_path / f"{n}.png": tmp_path / f"{n}x.png" for n in range(20)}
    for image, path in zip(images, pairs, strict=True):
        image.save(path)
    made = list(upscale_all(chain, pairs, Options()))
    assert [each.source for each in made] == list(pairs) and not any(each.error for each in made)
    for right, path in zip(super_resolve_all(host(), images, Options()), pairs.values(), strict=True):
        assert not isinstance(right, Exception) and right.image.tobytes() == Image.open(path).tobytes()
    jobs = [entry.kind for entry in device.log if entry.when != "ran" and entry.kind in ("upload", "synchronize")]
    assert jobs == ["upload"] * 2 + (["upload"] * 2 + ["synchronize"]) * 19 + ["synchronize"]
    assert device.counts["capture"] == len(PARTS), "once, not for every picture"


def test_what_a_shape_needs_is_kept_and_scratch_memory_only_grows(chain: Chain, device: SimulatedDevice) -> None:
    held, sizes = [], [(16, 16), (48, 48), (16, 24), (40, 48), (48, 56)]
    for size in sizes:
        same(chain, size, size)
        held.append(max(buffer.size for buffer in device.memory.values() if buffer.live))
    assert held == sorted(held) and held[1] == held[3] < held[4]
    before = device.counts.copy()
    same(chain, *sizes[4:] * 3, sizes[3])
    made = device.counts - before
    assert not made["allocate"] + made["pinned"] + made["free"]
    assert made["capture"] == len(PARTS), "of the one whose scratch memory moved"


def test_short_memory_is_shared_and_what_cannot_fit_is_one_error(chain: Chain, device: SimulatedDevice) -> None:
    same(chain, (48, 48))
    device.limit = device.peak
    for size in ((16, 24), (40, 48), (48, 40), (48, 48)):
        same(chain, size)
    assert device.counts["free"] and device.peak == device.limit
    with pytest.raises(UserError, match="out of GPU memory"):
        chain.run(sources((96, 96)))
    same(chain, (48, 48))


@pytest.mark.parametrize("size", [(16, 24), (64, 64), (8, 128)])
@pytest.mark.parametrize("tiles", [None, tiles_of(1, (32, 32), (16, 24)), tiles_of(2, (24, 24))])
def test_memory_is_predicted(chain: Chain, device: SimulatedDevice, size: Size, tiles: Tiles | None) -> None:
    chain.run(sources(size)) if tiles is None else run_picture(chain, sources(size), tiles)
    assert device.peak <= need(size, chain, tiles) <= 2 * device.peak


USED = {  # library → what it is called, and something that is surely used of it
    "pycuda.driver": (r"self\.cuda", "mem_alloc"),
    "cuda.bindings.driver": (r"(?:self\._)?driver", "cuStreamBeginCapture"),
    "tensorrt_rtx_bindings": (r"(?:self\.)?trt", "BuilderFlag.VERSION_COMPATIBLE"),
}


@pytest.mark.parametrize("library", USED)
def test_the_real_libraries_have_what_is_used_of_them(library: str) -> None:
    alias, known = USED[library]
    files = [*ROOT.glob("runtime/backends/tensorrt/*.py"), *ROOT.glob("engines/tensorrt/*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    chains = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
    used = {found[1] for text in chains if (found := re.fullmatch(rf"{alias}\.([\w.]+)", text))}
    assert known in used
    attrgetter(*used)(pytest.importorskip(library, exc_type=ImportError))


def test_a_slot_is_used_again_after_a_failed_wait(device: SimulatedDevice) -> None:
    chain = simulated(device)
    device.failing["synchronize"] = 1
    with pytest.raises(UserError):
        chain.run(sources((16, 24), seed=1))
    same(chain, (16, 24))


def test_idle_buffers_make_room_for_scratch_memory(chain: Chain, device: SimulatedDevice) -> None:
    device.limit = (24 + 3 * 6 * 4 + 5) * 48**2  # what the larger one takes: scratch, pictures, the rest
    same(chain, (16, 24))
    same(chain, (48, 48))


def test_pictures_of_two_sizes_fit_one_after_another(chain: Chain, device: SimulatedDevice) -> None:
    device.limit = need((48, 48), chain, None)
    images = [Image.new("RGB", size) for size in ((24, 24), (20, 24), (24, 24))]
    assert not [each for each in super_resolve_all(chain, images, Options()) if isinstance(each, Exception)]


def test_tiles_and_their_rest_fit_as_predicted(chain: Chain, device: SimulatedDevice) -> None:
    device.limit = need((24, 120), chain, tiles_of(4, (24, 24)))
    compare(chain, partial(tiled, size=(24, 120), tiles=tiles_of(4, (24, 24))))


def test_a_shape_that_engines_refuse_costs_no_buffers(chain: Chain, device: SimulatedDevice) -> None:
    same(chain, (16, 24))
    with pytest.raises(UserError, match="built for"):
        chain.run(sources((160, 160)))
    assert not device.counts["free"]


def test_a_job_outlives_the_failure_of_the_next(chain: Chain, device: SimulatedDevice) -> None:
    ticket = begin(chain, sources((16, 24)))
    for size, allocations in (((48, 48), 12), ((16, 24), 1)):
        device.failing["allocate"] = allocations
        with pytest.raises(UserError):
            begin(chain, sources(size))
    assert np.isfinite(chain.executor.collect(ticket).tensors["picture"]).all()


def test_a_plan_frees_everything_else_where_one_free_fails(device: SimulatedDevice) -> None:
    engines = {part.name: SimulatedEngine(graph_of(part), part, device, MOST) for part in PARTS}
    shapes = shapes_of(PARTS, sources((16, 24)))
    with device.current():
        buffers = Buffers.make(device, engines, PARTS, shapes, ("picture",))
        graphs = [Mock(**{"free.side_effect": error}) for error in (None, UserError("a graph"), None)]
        buffers.graphs = [*graphs, None]
        device.failing["free"] = 3
        with pytest.raises(UserError, match="a graph"):
            buffers.free()
    assert device.failed == 1 and all(graph.free.call_count == 1 for graph in graphs)
    assert [buffer.size for buffer in device.memory.values() if buffer.live] == [device.live]
    assert not device._pinned and not (buffers.slots or buffers.memory or buffers.contexts or buffers.graphs)


def test_a_failed_free_at_the_end_keeps_neither_other_buffers_nor_engines(device: SimulatedDevice) -> None:
    chain = simulated(device)
    same(chain, (16, 24), (24, 16))
    device.failing["free"] = 1
    with pytest.raises(
        Fault, match=r"leak: \d+ bytes, 0 pinned arrays, 0 operations, 0 engines or graphs, 0 events or streams"
    ):
        chain.close()  # the simulated device notices the one buffer
    assert [buffer.size for buffer in device.memory.values() if buffer.live] == [device.live]


def test_a_failure_is_told_rather_than_the_one_of_freeing_after_it(device: SimulatedDevice) -> None:
    chain = simulated(device)
    device.failing["allocate"], device.failing["free"] = 5, 1
    with pytest.raises(UserError, match="allocate failed"):
        chain.run(sources((16, 24)))
    assert device.failed == 2


def test_a_failed_wait_at_the_end_leaks_nothing(chain: Chain, device: SimulatedDevice) -> None:
    same(chain, (16, 24))
    device.failing["drain"] = 1
    chain.close()


def test_too_many_jobs_are_an_error_that_says_so(chain: Chain) -> None:
    with pytest.raises(UserError):
        [begin(chain, sources((16, 24))) for _ in range(3)]


def test_a_failed_wait_for_room_is_told(chain: Chain, device: SimulatedDevice) -> None:
    device.limit = need((48, 48), chain, None)
    device.failing["synchronize"] = 1
    with pytest.raises(UserError):
        list(pictures(chain, (48, 48), (40, 48)))


def test_an_interrupt_is_told_rather_than_a_wait_that_fails_after_it(device: SimulatedDevice) -> None:
    chain = simulated(device)
    same(chain, (16, 24))
    device.failing["drain"] = 1
    with patch.object(SimulatedDevice, "upload", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        begin(chain, sources((16, 24)))
    assert device.failed == 1
    same(chain, (16, 24))
    chain.close()
