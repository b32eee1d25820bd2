"""Several pictures at once on a CPU: what overlaps, how many, in which order, and that nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.host import HostExecutor, Shapes
from passionsr_trt.runtime.core.chain import Arrays, Chain
from passionsr_trt.runtime.core.files import upscale_all
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import SRResult, super_resolve_all
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import DEMO, Built
from tests.runtime.test_images import write_bad

LONG = 30.0  # seconds until a test that waits for what never comes fails
PICTURE, BETWEEN, OUT = (TensorInfo(name, 3, 1) for name in ("image", "between", "out"))
PARTS = (PartInfo("first", "first", (PICTURE,), BETWEEN, 1), PartInfo("second", "second", (BETWEEN,), OUT, 1))


class Scripted:
    """An engine that gives back what it was given; `script` sees it first, and may wait or fail."""

    def __init__(self, script: Callable[[int], None] = lambda _shade: None) -> None:
        self.script = script

    def prepare(self, shapes: Shapes) -> None:
        """Nothing to make ready."""

    def run(self, inputs: Arrays) -> np.ndarray:
        (x,) = inputs.values()
        self.script(round((float(x.mean()) + 1) * 127.5))
        return x.copy()


def chain_of(streams: int, first: Scripted, second: Scripted | None = None) -> Chain:
    executor = HostExecutor({"first": first, "second": second or Scripted()}, streams=streams)
    return Chain(ModelInfo("", "none", 1, "none"), PARTS, executor, "scripted")


def picture(shade: int) -> Image.Image:
    """A grey picture by whose shade a script knows it."""
    return Image.new("RGB", (64, 64), (shade, shade, shade))


def shade_of(result: SRResult | Exception) -> int:
    assert isinstance(result, SRResult)
    return int(np.asarray(result.image).mean())


def test_different_parts_of_different_pictures_run_at_once() -> None:
    second_picture_begun, first_picture_went_on = threading.Event(), threading.Event()

    def in_first(shade: int) -> None:
        if shade == 2:
            second_picture_begun.set()
            assert first_picture_went_on.wait(LONG)

    def in_second(shade: int) -> None:
        if shade == 1:
            assert second_picture_begun.wait(LONG)
            first_picture_went_on.set()

    chain = chain_of(2, Scripted(in_first), Scripted(in_second))
    assert [shade_of(each) for each in super_resolve_all(chain, map(picture, (1, 2)), Options())] == [1, 2]


def test_results_come_in_order_though_the_first_picture_is_done_last() -> None:
    others = threading.Semaphore(0)

    def script(shade: int) -> None:
        if shade == 0:
            assert others.acquire(timeout=LONG) and others.acquire(timeout=LONG)
        else:
            others.release()

    chain = chain_of(2, Scripted(), Scripted(script))
    assert [shade_of(each) for each in super_resolve_all(chain, map(picture, range(6)), Options())] == [*range(6)]


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_no_more_pictures_are_under_way_than_streams_and_one_waits(streams: int) -> None:
    lock, running, most, given = threading.Lock(), 0, 0, 0
    together = threading.Barrier(streams)

    def script(_shade: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(LONG)
        with lock:
            running -= 1

    def images() -> Iterator[Image.Image]:
        nonlocal given
        for shade in range(4 * streams):
            given += 1
            yield picture(shade)

    taken = 0
    for taken, _result in enumerate(
        super_resolve_all(chain_of(streams, Scripted(script)), images(), Options()), 1
    ):
        assert given - taken <= (streams if streams > 1 else 0), "asked for more than streams can take"
    assert taken == given == 4 * streams and most == streams


def test_tiles_of_one_picture_run_at_once() -> None:
    together = threading.Barrier(2)
    chain = chain_of(2, Scripted(lambda _shade: together.wait(LONG) and None))
    random = np.random.default_rng(0).integers(0, 256, (64, 120, 3), np.uint8)
    options = Options(tile=64, overlap=8)
    (result,) = super_resolve_all(chain, [Image.fromarray(random)], options)
    (alone,) = super_resolve_all(chain_of(1, Scripted()), [Image.fromarray(random)], options)
    assert isinstance(result, SRResult) and isinstance(alone, SRResult) and result.tiles is not None
    assert np.array_equal(np.asarray(result.image), np.asarray(alone.image))


@pytest.mark.parametrize("streams", [1, 3])
def test_one_bad_picture_costs_no_other_and_lines_keep_their_order(streams: int, tmp_path: Path) -> None:
    def script(shade: int) -> None:
        if shade == 4:
            raise UserError("four")

    pairs = {tmp_path / f"{shade}.png": tmp_path / "out" / f"{shade}.png" for shade in range(8)}
    for shade, source in enumerate(pairs):
        picture(shade).save(source)
    write_bad(tmp_path / "2.png", "truncated")
    (tmp_path / "out" / "6.png").mkdir(parents=True)  # where no file can be written
    told = list(upscale_all(chain_of(streams, Scripted(script)), pairs, Options(), streams))
    assert [made.source for made in told] == list(pairs)
    assert [made.source.stem for made in told if made.error is not None] == ["2", "4", "6"]
    for shade in (0, 1, 3, 5, 7):
        with Image.open(tmp_path / "out" / f"{shade}.png") as image:
            assert image.getpixel((0, 0)) == (shade, shade, shade)


def infer(engines: Path, output: Path, *words: str | Path) -> int:
    return main(["infer", *map(str, words), "-o", str(output), "--engines", str(engines), "--threads", "2"])


@pytest.mark.slow
def test_two_streams_give_the_bits_of_one(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted((DEMO / "photos" / "lr").iterdir())[:4]:
        with Image.open(path) as photo:
            photo.crop((0, 0, 80, 60)).save(folder / path.name)
    write_bad(folder / "bad.png", "truncated")
    for words in ((), ("--tile", "128", "--overlap", "32")):
        errors = []
        for streams in ("1", "2"):
            assert infer(small.engines_int8, tmp_path / streams, folder, "--streams", streams, *words) == 1
            captured = capsys.readouterr()
            assert "4 of 5 images written" in captured.out
            errors.append([line for line in captured.err.splitlines() if "error:" in line])
        assert errors[0] == errors[1] and len(errors[0]) == 1
        names = sorted(path.name for path in (tmp_path / "1").glob("[!.]*"))
        assert len(names) == 4
        for name in names:
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_streams_are_refused_where_there_are_none(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(small.engines_int8, tmp_path / "out", photo, "--streams", "3") == 2
    assert "--streams 3; expected at most 2, a thread each" in capsys.readouterr().err
    assert infer(small.onnx_int8, tmp_path / "out", photo, "--streams", "2", "--provider", "cpu") == 2
    assert "--streams 2 with --provider cpu; expected OpenVINO engines" in capsys.readouterr().err
