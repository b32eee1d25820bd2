"""Work that overlaps gives its results in order, whatever is done first or fails, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, TensorInfo
from passionsr_trt.engines.common.errors import EngineError, UserError
from passionsr_trt.runtime.backends.host import HostExecutor, Shapes
from passionsr_trt.runtime.core.chain import Arrays, Chain
from passionsr_trt.runtime.core.ordered import attempt, ordered
from passionsr_trt.runtime.core.planning import Tiles
from passionsr_trt.runtime.core.tiling import PictureRun, run_picture, run_pictures

FATES = st.sampled_from(["done", "fails to begin", "fails"])


@dataclass
class Works:
    """Jobs that are numbers; `fates` says what becomes of each. under_way: begun and not collected."""

    fates: list[str]
    under_way: set[int] = field(default_factory=set)
    most: int = 0
    asked: int = 0
    closed: bool = False

    def jobs(self) -> Iterator[int]:
        try:
            for number in range(len(self.fates)):
                self.asked += 1
                yield number
        finally:
            self.closed = True

    def submit(self, number: int) -> int:
        if self.fates[number] == "fails to begin":
            raise UserError(f"{number}")
        self.under_way.add(number)
        self.most = max(self.most, len(self.under_way))
        return number

    def collect(self, number: int) -> str:
        assert number == min(self.under_way), "each once, the oldest first"
        self.under_way.remove(number)
        if self.fates[number] == "fails":
            raise UserError(f"{number}")
        return f"{number}"


@settings(deadline=None)
@given(st.lists(FATES, max_size=12), st.integers(1, 5))
def test_results_come_in_order_and_no_more_are_under_way_than_asked(fates: list[str], depth: int) -> None:
    works = Works(fates)

    def begun(number: int) -> tuple[int, int | Exception]:
        return number, attempt(partial(works.submit, number))

    def ended(begun: tuple[int, int | Exception]) -> tuple[int, str | Exception]:
        number, ticket = begun
        return number, ticket if isinstance(ticket, Exception) else attempt(partial(works.collect, ticket))

    for index, (number, found) in enumerate(ordered(works.jobs(), begun, ended, depth)):
        assert number == index and isinstance(found, str) == (fates[index] == "done")
        assert works.asked - index <= depth, "asked for before there was room"
    assert works.asked == len(fates) and works.most <= depth and works.closed and not works.under_way


@settings(deadline=None)
@given(st.lists(FATES, max_size=12), st.integers(1, 5), st.integers(0, 12))
def test_however_it_ends_nothing_is_left_under_way(fates: list[str], depth: int, taken: int) -> None:
    works = Works(fates)
    results = ordered(works.jobs(), works.submit, works.collect, depth)
    good = next((index for index, fate in enumerate(fates) if fate != "done"), len(fates))
    try:
        assert list(islice(results, taken)) == [str(number) for number in range(min(taken, good))]
    except UserError as error:
        assert str(error) == str(good) or fates[int(str(error))] == "fails to begin"
    results.close()  # type: ignore[attr-defined]
    assert not works.under_way
    assert works.closed or not works.asked


@settings(deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_the_order_of_completion_changes_nothing(order: list[int], depth: int) -> None:
    """Of those under way it is the first in `order` that is done next."""
    pending: dict[int, Future[int]] = {}

    def submit(number: int) -> Future[int]:
        pending[number] = Future()
        return pending[number]

    def collect(wanted: Future[int]) -> int:
        while not wanted.done():
            number = next(number for number in order if number in pending)
            pending.pop(number).set_result(number)
        return wanted.result()

    assert list(ordered(range(6), submit, collect, depth, lambda waiting: waiting[0].done())) == [*range(6)]


def test_what_is_ready_is_given_before_more_is_asked_for() -> None:
    works = Works(["done"] * 4)
    results = ordered(works.jobs(), works.submit, works.collect, 9, due=lambda waiting: len(waiting) == 2)
    assert (next(results), works.asked) == ("0", 2)
    assert (next(results), works.asked) == ("1", 3)


PICTURE, BETWEEN, OUT = (TensorInfo(name, 3, 1) for name in ("image", "between", "out"))
PARTS = (PartInfo("first", "first", (PICTURE,), BETWEEN, 1), PartInfo("second", "second", (BETWEEN,), OUT, 1))


class Twice:
    """An engine that doubles; it fails at pictures of the shades in `bad`."""

    def __init__(self, bad: dict[int, type[Exception]], wait: Callable[[], None]) -> None:
        self.bad, self.wait = bad, wait

    def prepare(self, shapes: Shapes) -> None:
        """Nothing to make ready."""

    def run(self, inputs: Arrays) -> np.ndarray:
        (x,) = inputs.values()
        self.wait()
        if error := self.bad.get(int(x.flat[0])):
            raise error(f"{x.flat[0]}")
        return x * 2


def chain_of(streams: int, bad: dict[int, type[Exception]], wait: Callable[[], None] = lambda: None) -> Chain:
    engines = {"first": Twice({}, wait), "second": Twice({2 * shade: error for shade, error in bad.items()}, wait)}
    return Chain(ModelInfo("", "none", 1, "none"), PARTS, HostExecutor(engines, streams=streams), "twice")


TILES = Tiles({"first": (16, 16), "second": (24, 16)}, 8)
WAYS = st.sampled_from(["whole", "tiled", "fails", "tiled and fails", "wrong before"])


@settings(deadline=None)
@given(st.lists(WAYS, max_size=8), st.integers(1, 3))
def test_pictures_whole_and_in_tiles_share_a_chain_and_no_failure(ways: list[str], streams: int) -> None:
    chain = chain_of(streams, {shade: UserError for shade, way in enumerate(ways) if "fails" in way})

    def runs() -> Iterator[PictureRun[int]]:
        for shade, way in enumerate(ways):
            tensors = {"image": np.full((1, 3, 32, 24), shade, np.float32)}
            error = UserError("before") if way == "wrong before" else None
            yield PictureRun(shade, chain, tensors, TILES if "tiled" in way else None, error=error)

    found = list(run_pictures(chain, runs()))
    assert [run.given for run in found] == [*range(len(ways))]
    for run, way in zip(found, ways, strict=True):
        assert (run.error is None) == (way in ("whole", "tiled"))
        if run.error is None:
            assert np.allclose(run.tensors["out"], 4 * run.given) and set(run.seconds) == {"first", "second"}


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("tiles", [None, TILES])
def test_what_is_wrong_with_engines_ends_all_and_nothing_goes_on(streams: int, tiles: Tiles | None) -> None:
    chain = chain_of(streams, {1: EngineError})
    runs = (PictureRun(n, chain, {"image": np.full((1, 3, 32, 24), n, np.float32)}, tiles) for n in range(5))
    found = run_pictures(chain, runs)
    assert next(found).given == 0
    with pytest.raises(EngineError):
        list(found)


@pytest.mark.parametrize("tiles", [None, TILES])
def test_a_watched_picture_is_given_up_between_two_tiles(tiles: Tiles | None) -> None:
    told: list[tuple[str, int, int]] = []

    class Enough(Exception):
        pass

    def watch(part: str, done: int, count: int) -> None:
        told.append((part, done, count))
        if len(told) == 3:
            raise Enough

    sources = {"image": np.zeros((1, 3, 32, 24), np.float32)}
    with pytest.raises(Enough):
        run_picture(chain_of(1, {}), sources, tiles, watch)
    count = 1 if tiles is None else 6
    assert told == [("first", 0, count), ("first", 1, count), ("second", 0, 1) if count == 1 else ("first", 2, 6)]
    told.extend([("", 0, 0)] * 3)
    watched = run_picture(chain_of(1, {}), sources, tiles, watch)
    assert np.array_equal(watched.tensors["out"], run_picture(chain_of(1, {}), sources, tiles).tensors["out"])
    assert told[-1] == ("second", count if tiles is None else 4, count if tiles is None else 4)


def test_a_stream_that_is_given_up_has_no_thread_at_work() -> None:
    at_work = threading.Semaphore(0)

    with ThreadPoolExecutor(2) as pool:
        results = ordered(range(9), lambda n: pool.submit(at_work.acquire, timeout=5), Future.result, 3)
        at_work.release(3)
        assert next(results)
        results.close()  # type: ignore[attr-defined]
        assert not pool._work_queue.qsize()
