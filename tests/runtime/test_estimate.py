"""What is said before and while pictures are made: what they will be, how far they are, how long it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.apps.estimate import Estimate, about
from passionsr_trt.runtime.apps.serving.engines import EngineChoice, for_plans, offers
from passionsr_trt.runtime.apps.serving.meter import Meter
from passionsr_trt.runtime.apps.serving.sessions import Cancelled, CancelToken
from passionsr_trt.runtime.core.observing import Plan, plan_of
from passionsr_trt.runtime.core.planning import Options, Tiles
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image

from tests.conftest import Built

TILES = Tiles({"first": (16, 16), "second": (16, 16)}, 4)
PLAN = Plan((10, 20), (40, 80), TILES, {"first": 2, "second": 2}, {"first": 20.0, "second": 60.0})


def test_a_plan_has_the_tiles_that_the_picture_is_cut_into(small: Built) -> None:
    choice = EngineChoice(offers([small.engines_int8], "cpu", 1, 0))
    chain = choice.chain("INT8")
    shape = choice.shape("INT8")
    told: dict[str, int] = {}

    def watch(part: str, _done: int, count: int) -> None:
        told[part] = count

    image = Image.fromarray(np.full((75, 112, 3), 99, np.uint8))
    assert shape is not None
    for options in (Options(tile=128), Options()):
        super_resolve(chain, image, options, watch)
        plan = plan_of(shape, (75, 112), options)
        assert dict(plan.counts) == told
        assert bool(plan.count) is bool(options.tile) and plan.result == (150, 224)
    with pytest.raises(RuntimeError, match="not open"):
        shape.run({})
    with pytest.raises(UserError, match=r"GiB at least; 1 bytes may be taken"):
        plan_of(shape, (4000, 4000), Options(memory=1))
    choice.close()
    assert choice.shape("INT8") is shape and EngineBundle.load(small.engines_int8).parts == shape.parts
    assert for_plans(shape) == shape


def test_a_plan_reads_well() -> None:
    assert str(PLAN) == "20×10 → 80×40, 4 tiles of 16×16 pixels" and PLAN.work == 80
    assert [PLAN.doing(tiles) for tiles in (0, 3, 4)] == ["tile 1 of 4", "tile 4 of 4", "finishing"]
    assert [PLAN.share(tile) for tile in range(5)] == [10 / 80, 10 / 80, 30 / 80, 30 / 80, 0]
    whole = Plan((10, 20), (40, 80), None, {"first": 1}, {"first": 1.0})
    assert str(whole) == "20×10 → 80×40" and whole.doing(0) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (89, "about 89 s"), (100, "about 2 min"), (3600, "about 60 min"), (9000, "about 2.5 h")],
)
def test_times_are_round(seconds: float, words: str) -> None:
    assert about(seconds) == words


def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time stands still, and goes on when it is told to."""
    now = [100.0]
    monkeypatch.setattr("passionsr_trt.runtime.apps.estimate.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_an_earlier_run_s_pace_counts_until_there_is_an_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = clock(monkeypatch)
    for pace, first in ((None, None), (0.5, 50.0)):
        estimate = Estimate({"a": 100.0, "b": 100.0}, pace)
        assert estimate.seconds(100.0) == first
        estimate.at("a", 0.1, 0.1)
        wait(20.0)
        estimate.at("a", 0.3, 0.1)
        assert estimate.seconds(100.0) == 100.0, "20 seconds for 20 of 100"
        assert estimate.now() == (0.15, 170.0)
        estimate.ended("a", failed=True)
        assert estimate.now()[0] == 0.5, "what failed is over"
        assert estimate.seconds(100.0) == 100.0, "and says nothing of the pace"


def test_tiles_are_counted_over_all_parts_and_the_time_left_goes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, str]] = []
    wait = clock(monkeypatch)
    meter = Meter(CancelToken(), lambda share, text: told.append((share, text)), [80.0, 80.0], None)
    with meter.picture(0, PLAN, "a.png") as watch:
        for part, done in (("first", 0), ("first", 1), ("first", 2), ("second", 0), ("second", 1), ("second", 2)):
            wait(1.0)
            watch(part, done, 2)
    with meter.picture(1, PLAN, "b.png"):
        pass
    assert [share for share, _text in told] == pytest.approx([0, 10 / 160, 20 / 160, 50 / 160, 0.5, 0.5])
    assert [text for _share, text in told] == [
        "a.png: tile 1 of 4",
        "a.png: tile 2 of 4",
        "a.png: tile 3 of 4, about 14 s left",
        "a.png: tile 4 of 4, about 8 s left",
        "a.png: finishing, about 5 s left",
        "b.png: tile 1 of 4, about 5 s left",
    ]


def test_a_picture_that_failed_counts_as_over() -> None:
    told: list[float] = []
    meter = Meter(CancelToken(), lambda share, _text: told.append(share), [80.0, 80.0], None)
    meter.failed(0)
    with meter.picture(1, PLAN, "b.png"):
        pass
    assert told == [0.5]


def test_between_tiles_the_share_grows_and_stays_below_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    enough = threading.Event()

    def report(share: float, _text: str) -> None:
        wait(2.0)
        told.append(share)
        if len(told) == 8:
            enough.set()

    wait = clock(monkeypatch)
    monkeypatch.setattr("passionsr_trt.runtime.apps.estimate.TICK", 0.01)
    meter = Meter(CancelToken(), report, [80.0], 1.0)
    with meter.picture(0, PLAN, "a.png"), meter.ticking():
        assert enough.wait(60)
    assert told[:8] == sorted(told[:8]) and told[7] == pytest.approx(0.95 * 10 / 80)


def test_a_given_up_picture_ends_at_its_next_tile() -> None:
    token = CancelToken()
    meter = Meter(token, lambda *_told: None, [80.0], None)
    with pytest.raises(Cancelled), meter.picture(0, PLAN, "a.png") as watch:
        token.ended = True
        watch("first", 1, 2)
