"""Upscaler, as a program uses it: pictures in, pictures out, one or a stream."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime import Upscaler
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import DEMO, Built


@pytest.fixture(scope="module")
def upscaler(small: Built) -> Iterator[Upscaler]:
    with Upscaler(small.engines_int8) as opened:
        yield opened


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    with Image.open(DEMO / "photos" / "lr" / "chelsea.png") as image:
        return image.convert("RGB").crop((30, 20, 30 + size[0], 20 + size[1])).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P"])
def test_an_image_becomes_the_pixels_that_infer_writes(
    upscaler: Upscaler, small: Built, tmp_path: Path, mode: str
) -> None:
    image = picture(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "in.png", icc_profile=b"profile")
    words = ["infer", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--engines"]
    assert main([*words, str(small.engines_int8)]) == 0
    with Image.open(tmp_path / "in.png") as given, Image.open(tmp_path / "out.png") as expected:
        found = upscaler.up(given)
        assert (found.mode, found.size) == (expected.mode, expected.size)
        assert found.size == (40 * upscaler.scale, 24 * upscaler.scale)
        assert np.array_equal(np.asarray(found), np.asarray(expected))
        assert found.info["icc_profile"] == b"profile"


def test_an_array_becomes_an_array_of_the_same_pixels(upscaler: Upscaler) -> None:
    image = picture()
    found = upscaler.up(np.asarray(image))
    assert found.dtype == np.uint8 and found.flags.writeable
    assert np.array_equal(found, np.asarray(upscaler.up(image)))


def test_a_stream_is_lazy_and_in_order(upscaler: Upscaler) -> None:
    asked: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            asked.append(len(asked))
            yield np.full((16, 16, 3), 40 * len(asked), np.uint8)

    stream = upscaler.stream(endless())
    assert not asked, "nothing is asked for before the first result is"
    with closing(stream) as results:  # type: ignore[type-var]
        means = [float(np.asarray(next(results)).mean()) for _time in range(3)]
    assert means == sorted(means) and len(asked) <= 5
    upscaler.up(picture())


def test_a_bad_picture_does_not_lose_the_others_of_a_stream(upscaler: Upscaler) -> None:
    good, bad = np.asarray(picture()), np.zeros((4, 4, 3), np.uint8)
    found = list(upscaler.stream([good, bad, good], keep_going=True))
    assert isinstance(found[1], UserError) and "4×4 pixels" in str(found[1])
    assert np.array_equal(np.asarray(found[0]), np.asarray(found[2]))
    stream = upscaler.stream([good, bad, good])
    next(stream)
    with pytest.raises(UserError, match="4×4 pixels"):
        next(stream)
    upscaler.up(good)


def test_while_a_stream_is_under_way_others_are_refused(upscaler: Upscaler) -> None:
    stream = upscaler.stream([picture()] * 3)
    next(stream)
    for call in (lambda: upscaler.up(picture()), lambda: next(upscaler.stream([picture()]))):
        with pytest.raises(UserError, match="a stream of this Upscaler is under way"):
            call()
    assert len(list(stream)) == 2
    upscaler.up(picture())


def test_threads_wait_for_each_other(upscaler: Upscaler) -> None:
    images = [picture(size=(16 + 8 * index, 16)) for index in range(4)]
    expected = [np.asarray(upscaler.up(image)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(upscaler.up, images))
    assert all(np.array_equal(np.asarray(a), b) for a, b in zip(found, expected, strict=True))
    assert threading.active_count() < 50


def truncated(tmp_path: Path) -> Image.Image:
    path = tmp_path / "cut.png"
    picture().save(path)
    path.write_bytes(path.read_bytes()[:200])
    return Image.open(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: np.zeros((8, 8), np.uint8), r"an array uint8 \[8, 8\]; expected uint8 \[height, width, 3\]"),
        (lambda _: np.zeros((8, 8, 3)), "an array float64"),
        (lambda _: np.zeros((8, 8, 4), np.uint8), r"\[8, 8, 4\]"),
        (lambda _: Image.new("I;16", (8, 8)), "mode I;16; expected 8 bits a channel"),
        (lambda _: Image.new("RGB", (7, 90)), "7×90 pixels; expected sides from 8 on"),
        (lambda _: "photo.jpg", "a picture of type str"),
        (truncated, "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_one_line(upscaler: Upscaler, tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        upscaler.up(make(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "expected a multiple of"),
        ({"tile": -1}, "tile is -1; expected at least 0, or None"),
        ({"align": "nice"}, "align is 'nice'; expected adain, wavelet, none or None"),
        ({"scale": 9}, "expected 1 to 8"),
        ({"streams": 0}, "streams is 0"),
        ({"provider": "rocm"}, "provider is 'rocm'"),
        ({"memory": 0}, "memory is 0"),
    ],
)
def test_wrong_options_are_refused(small: Built, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Upscaler(small.engines_int8, **options)


def test_options_do_what_those_of_infer_do(small: Built) -> None:
    image = picture(size=(112, 75))
    with Upscaler(small.engines_int8, scale=3, tile=128, align="none", streams=2, threads=2) as tiled:
        assert tiled.scale == 3
        large, *others = tiled.stream([image] * 3)
        assert isinstance(large, Image.Image) and large.size == (336, 225) and len(others) == 2
    with Upscaler(small.onnx_fp32, provider="cpu") as exact:
        assert exact.up(image).size == (112 * exact.scale, 75 * exact.scale)


def test_a_closed_one_and_missing_engines_are_one_line(small: Built, tmp_path: Path) -> None:
    opened = Upscaler(small.engines_int8)
    stream = opened.stream([picture()] * 3)
    next(stream)
    opened.close()
    opened.close()
    with pytest.raises(UserError, match="closed"):
        opened.up(picture())
    with pytest.raises(UserError, match="closed"):
        next(stream)
    with pytest.raises(UserError, match="manifest"):
        Upscaler(tmp_path)


def test_importing_it_is_light_and_the_package_is_a_command() -> None:
    heavy = ("torch", "openvino", "onnx", "onnxruntime", "numpy", "PIL")
    code = (
        "import sys, passionsr_trt.runtime, passionsr_trt.export as export\n"
        f"assert not {{name.split('.')[0] for name in sys.modules}} & set({heavy!r})\n"
        "print(passionsr_trt.runtime.__version__)\n"
        "from passionsr_trt.runtime import Upscaler\n"
        "from passionsr_trt.export import quantize_model\n"
        "assert not {name.split('.')[0] for name in sys.modules} & {'torch', 'openvino', 'onnxruntime'}\n"
    )
    for words in (["-c", code], ["-m", "passionsr_trt.runtime", "--version"]):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1].count(".") == 2
