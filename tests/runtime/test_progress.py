"""Pictures are seen at work: what each will be, tile by tile, the time once it is known, failures apart."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.apps import estimate as estimate_module
from passionsr_trt.runtime.apps.progress import Progress
from passionsr_trt.runtime.backends.loading import open_engines
from passionsr_trt.runtime.backends.packaged import DEFAULT, REALESR_GENERAL, located
from passionsr_trt.runtime.core import upscaler
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.observing import Plan
from passionsr_trt.runtime.core.planning import Options, Tiles
from passionsr_trt.runtime.core.upscaler import super_resolve, super_resolve_each
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import DEMO
from tests.runtime.test_images import write_bad

A, B, C = Path("in/a.png"), Path("in/b.png"), Path("in/c.png")


@dataclass
class Recorded:
    """A PictureObserver that keeps what it is told."""

    told: list[object] = field(default_factory=list)

    def begins(self, plan: Plan) -> None:
        self.told.append(str(plan))

    def advances(self, tiles: int, share: float) -> None:
        self.told.append((tiles, share))

    def ends(self) -> None:
        self.told.append("ends")


@pytest.fixture(scope="module", params=[1, 2])
def chain(request: pytest.FixtureRequest) -> Iterator[Chain]:
    """Of one stream and of two."""
    with closing(open_engines(EngineBundle.load(located(DEFAULT)), streams=request.param)) as opened:
        yield opened


def test_each_picture_s_observer_hears_of_it_alone_in_order(chain: Chain) -> None:
    observers = {name: Recorded() for name in "abc"}
    images = [
        ("a", Image.new("RGB", (40, 30))),
        ("b", Image.new("RGB", (8, 9))),
        ("c", Image.new("RGB", (40, 30))),
    ]
    options = Options(tile=64, overlap=32)
    assert [name for name, _ in super_resolve_each(chain, images, options, observe=observers.get)] == [*"abc"]  # type: ignore[arg-type]
    tiled = ["40×30 → 160×120, 12 tiles of 64×64 pixels", *((tile, tile / 12) for tile in range(1, 13)), "ends"]
    assert observers["a"].told == observers["c"].told == tiled
    assert observers["b"].told == ["8×9 → 32×36", "ends"], "an untiled one is computed at once"


@dataclass
class Clock:
    """In place of time.monotonic."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(estimate_module.time, "monotonic", made.monotonic)
    monkeypatch.setattr(estimate_module, "TICK", 1e6)
    return made


PLAN = Plan((10, 20), (40, 80), Tiles({"net": (16, 16)}, 4), {"net": 10}, {"net": 1.0})


def test_lines_are_said_at_an_interval_and_time_once_it_is_known(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("engines", {A: 1000, B: 1000, C: 1}) as progress:
        progress.ended(C, failed=True)
        first, second = progress.observer(A), progress.observer(B)
        first.begins(PLAN)
        for tile in range(1, 11):
            clock.now += 100 if tile == 1 else 7  # a model is compiled before the first
            first.advances(tile, tile / 10)
        first.ends()
        progress.ended(A, failed=False)
        second.begins(PLAN)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "in/a.png: 20×10 → 80×40, 10 tiles of 16×16 pixels",
        "5%, 0 of 3 written, 1 failed, a.png: tile 2 of 10",
        "20%, about 2 min left, 0 of 3 written, 1 failed, a.png: tile 5 of 10",
        "35%, about 2 min left, 0 of 3 written, 1 failed, a.png: tile 8 of 10",
        "50%, about 70 s left, 0 of 3 written, 1 failed, a.png: finishing",
        "in/b.png: 20×10 → 80×40, 10 tiles of 16×16 pixels, about 70 s",
    ]


def test_on_a_terminal_there_is_a_bar_with_failures_apart(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("engines", {A: 1000, B: 1000}) as progress:
        progress.ended(B, failed=True)
        progress.observer(A).begins(PLAN)
        progress.observer(A).ends()
        progress.bar.refresh()
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in bar and "0 of 2 written, 1 failed, a.png: writing" in bar


def test_between_two_tiles_the_bar_goes_on(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("engines", {A: 1000}) as progress:
        picture = progress.observer(A)
        picture.begins(PLAN)
        for tile in (1, 2):
            clock.now += 30
            picture.advances(tile, tile / 10)
        clock.now += 15
        progress.show()
        assert "25%" in capsys.readouterr().err.split("\r")[-1]
        clock.now += 3000
        progress.show()
        assert "30%" in capsys.readouterr().err.split("\r")[-1], "not to the tile's end: 29.5"


def test_a_large_picture_is_said_before_it_is_prepared(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Recorded()

    def prepare(*_given: object) -> None:
        observer.told.append("prepared")
        raise UserError("enough")

    monkeypatch.setattr("passionsr_trt.runtime.core.upscaler.prepare", prepare)
    with pytest.raises(UserError, match="enough"):
        super_resolve(chain, Image.new("RGB", (40, 30)), Options(), observer=observer)
    assert observer.told == ["40×30 → 160×120", "prepared"]


def test_a_picture_is_enlarged_only_for_who_sees_it(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    image, seen = Image.open(DEMO / "photos" / "lr" / "chelsea.png").convert("RGB"), []
    bicubic = image.resize((448, 300), Image.Resampling.BICUBIC)
    enlarge = upscaler.upscale
    monkeypatch.setattr(upscaler, "upscale", lambda *given: [seen.append(given), enlarge(*given)][1])
    result = super_resolve(chain, image, Options())
    assert seen == [] and result.bicubic.tobytes() == bicubic.tobytes() and len(seen) == 1
    aligned = super_resolve(chain, image, Options(align="wavelet"))
    assert len(seen) == 2 and aligned.image.tobytes() != result.image.tobytes()


def test_infer_says_what_each_picture_will_be(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bad(tmp_path / "bad.png", "text")
    words = ["--engines", str(REALESR_GENERAL.folder / "int8"), "--provider", "cpu", "--tile", "256"]
    assert main(["infer", str(photo), str(tmp_path / "bad.png"), "-o", str(tmp_path / "out"), *words]) == 1
    printed = capsys.readouterr()
    assert f"{photo}: 112×75 → 448×300, 4 tiles of 256×256 pixels\n" in printed.err
    assert "1 of 2 images written" in printed.out
