"""What the page says before and while a picture is made."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.apps.serving.engines import EngineChoice, for_plans, offers
from passionsr_trt.runtime.apps.serving.forecast import Forecast, Pace, about, duration, forecast
from passionsr_trt.runtime.apps.serving.meter import Meter
from passionsr_trt.runtime.apps.serving.sessions import Cancelled, CancelToken
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image

from tests.conftest import Built

PLAN = Forecast((10, 20), (40, 80), {"first": 2, "second": 2}, {"first": 20.0, "second": 60.0})


def test_a_forecast_has_the_tiles_that_the_picture_is_cut_into(small: Built) -> None:
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
        plan = forecast(shape, (75, 112), options)
        assert dict(plan.tiles) == told
        assert plan.cut is bool(options.tile) and plan.made == (150, 224)
    with pytest.raises(RuntimeError, match="not open"):
        shape.run({})
    with pytest.raises(UserError, match=r"GiB at least; 1 bytes may be taken"):
        forecast(shape, (4000, 4000), Options(memory=1))
    choice.close()
    assert choice.shape("INT8") is shape and EngineBundle.load(small.engines_int8).parts == shape.parts
    assert for_plans(shape) == shape


def test_a_forecast_reads_well() -> None:
    assert PLAN.text(None) == "20×10 → 80×40, 4 tiles" and PLAN.total == 80
    whole = Forecast((10, 20), (40, 80), {"first": 1}, {"first": 1.0})
    assert whole.text(125.0) == "20×10 → 80×40, about 2 min"
    assert [about(value) for value in (0.2, 59.4, 75.0, 599.0, 4000.0)] == [
        "less than a second",
        "about 59 s",
        "about 1 min 20 s",
        "about 10 min",
        "about 1 h 7 min",
    ]
    assert duration(61) == "1 min 1 s" and duration(0) == "0 s"


def test_the_pace_is_the_last_runs() -> None:
    pace = Pace()
    assert pace.seconds("INT8", 10.0) is None
    pace.note("INT8", 10.0, 5.0)
    pace.note("INT8", 10.0, 2.0)
    assert pace.seconds("INT8", 30.0) == 6.0 and pace.seconds("FP32", 30.0) is None


def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time stands still, and goes on when it is told to."""
    now = [100.0]
    monkeypatch.setattr("passionsr_trt.runtime.apps.serving.meter.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_tiles_are_counted_over_all_parts_and_the_time_left_goes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, str]] = []
    wait = clock(monkeypatch)
    meter = Meter(CancelToken(), lambda share, text: told.append((share, text)), [80.0, 80.0], None)
    with meter.picture(0, PLAN, "a.png"):
        for part, done in (("first", 0), ("first", 1), ("first", 2), ("second", 0), ("second", 1), ("second", 2)):
            wait(1.0)
            meter.watch(part, done, 2)
    with meter.picture(1, PLAN, "b.png"):
        pass
    assert [share for share, _text in told] == pytest.approx(
        [0, 0, 10 / 160, 20 / 160, 20 / 160, 50 / 160, 0.5, 0.5]
    )
    assert told[0][1] == "a.png: tile 1 of 4"
    assert told[3][1] == "a.png: tile 3 of 4, about 21 s left"
    assert told[5][1] == "a.png: tile 4 of 4, about 11 s left"
    assert told[6][1] == "a.png: finishing" and told[7][1] == "b.png: tile 1 of 4, about 6 s left"


def test_between_tiles_the_share_grows_and_stays_below_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    enough = threading.Event()

    def report(share: float, _text: str) -> None:
        wait(2.0)
        told.append(share)
        if len(told) == 8:
            enough.set()

    wait = clock(monkeypatch)
    monkeypatch.setattr("passionsr_trt.runtime.apps.serving.meter.TICK", 0.01)
    meter = Meter(CancelToken(), report, [80.0], 80.0)
    with meter.picture(0, PLAN, "a.png"), meter.ticking():
        assert enough.wait(60)
    assert told[:8] == sorted(told[:8]) and told[7] == pytest.approx(0.95 * 10 / 80)


def test_a_given_up_picture_ends_at_its_next_tile() -> None:
    token = CancelToken()
    meter = Meter(token, lambda *_told: None, [80.0], None)
    with pytest.raises(Cancelled), meter.picture(0, PLAN, "a.png"):
        token.ended = True
        meter.watch("first", 1, 2)
