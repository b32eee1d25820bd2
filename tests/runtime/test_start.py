"""The first picture: compiled models are kept, nothing is compiled twice, and no picture's seconds hold it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, TensorInfo
from passionsr_trt.runtime.backends import openvino as openvino_engine
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.loading import open_engines
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.files import by_size
from passionsr_trt.runtime.main import main
from PIL import ExifTags, Image

from tests.conftest import Built

pytestmark = pytest.mark.kernels


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every compilation from now on: (part, shape)."""
    done: list[tuple[Any, ...]] = []
    original = openvino_engine.compile_static

    def counted(path: Path, shapes: dict[str, tuple[int, ...]], *rest: object, **more: object) -> object:
        done.append((path.stem, *shapes.values()))
        return original(path, shapes, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(openvino_engine, "compile_static", counted)
    return done


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


def infer(engines: Path, output: Path, *words: str | Path) -> int:
    return main(["infer", *map(str, words), "-o", str(output), "--engines", str(engines)])


@pytest.mark.slow
def test_the_second_run_compiles_nothing_and_gives_the_same_bits(
    small: Built, photo: Path, tmp_path: Path, cache: Path, compiled: list[tuple[Any, ...]]
) -> None:
    assert infer(small.engines_int8, tmp_path / "1.png", photo) == 0
    assert len(compiled) == 3 and len(list(cache.iterdir())) == 3
    assert infer(small.engines_int8, tmp_path / "2.png", photo) == 0
    assert len(compiled) == 3
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert infer(small.engines_int8, tmp_path / "3.png", photo, "--threads", "1") == 0
    assert len(compiled) == 6, "another model for another number of threads"


def test_a_damaged_compiled_model_is_compiled_again(
    small: Built, photo: Path, tmp_path: Path, cache: Path, compiled: list[tuple[Any, ...]]
) -> None:
    assert infer(small.engines_int8, tmp_path / "1.png", photo) == 0
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert infer(small.engines_int8, tmp_path / "2.png", photo) == 0
    assert len(compiled) == 6
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_a_damaged_engine_is_refused_once_though_its_compiled_model_is_whole(
    small: Built, photo: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = tmp_path / "engines"
    shutil.copytree(small.engines_int8, engines)
    pictures = (photo, tmp_path / "again.png")
    shutil.copy(photo, pictures[1])
    assert infer(engines, tmp_path / "out", *pictures) == 0
    content = bytearray((engines / "unet.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (engines / "unet.onnx").write_bytes(content)
    capsys.readouterr()
    assert infer(engines, tmp_path / "second", *pictures) == 1
    assert capsys.readouterr().err.count("SHA-256 differs") == 1
    assert not list((tmp_path / "second").glob("*"))


def test_without_a_cache_nothing_is_kept(small: Built, photo: Path, tmp_path: Path, cache: Path) -> None:
    assert infer(small.engines_int8, tmp_path / "1.png", photo, "--no-cache") == 0
    assert not cache.exists()


@pytest.mark.slow
def test_pictures_of_one_size_go_together(
    small: Built, tmp_path: Path, compiled: list[tuple[Any, ...]], cache: Path
) -> None:
    sizes = [(32, 32), (64, 32), (96, 32), (64, 64), (31, 30), (60, 31)]  # more than engines keep, mixed
    for index, size in enumerate(sizes):
        Image.new("RGB", size, "grey").save(tmp_path / f"{index}.png")
    out = tmp_path / "out"
    assert (
        infer(small.engines_int8, out, *(tmp_path / f"{index}.png" for index in range(len(sizes))), "--no-cache")
        == 0
    )
    assert len(compiled) == len(set(compiled)) == 3 * 4
    assert sorted(path.name for path in out.glob("[!.]*")) == [f"{index}.png" for index in range(len(sizes))]


def test_the_order_is_that_of_first_appearance_and_a_turned_picture_counts_as_it_will_be(tmp_path: Path) -> None:
    part = PartInfo("part", "", (TensorInfo("image", 3, 1),), TensorInfo("out", 3, 1), 64)
    chain = Chain(ModelInfo("", "none", 4, "none"), (part,), HostExecutor({}), "sizes")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name, size, more in (
        ("a", (64, 32), {}),
        ("b", (32, 64), {}),
        ("c", (32, 64), {"exif": exif}),
        ("d", (32, 64), {}),
    ):
        Image.new("RGB", size).save(tmp_path / f"{name}.png", **more)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    names = ("a", "b", "broken", "c", "d")
    pairs = {tmp_path / f"{name}.png": Path(name) for name in names}
    assert [target.name for target in by_size(pairs, chain).values()] == ["a", "c", "b", "d", "broken"]


def test_compilation_is_in_no_part_s_seconds(small: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is read after a shape is prepared, never around it."""
    now = 0.0
    monkeypatch.setattr("passionsr_trt.runtime.backends.host.time.perf_counter", lambda: now)
    original = openvino_engine.compile_static

    def slow(*words: object, **more: object) -> object:
        nonlocal now
        now += 100.0
        return original(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(openvino_engine, "compile_static", slow)
    chain = open_engines(EngineBundle.load(small.engines_int8))
    whole = chain.run({"image": np.zeros((1, 3, 64, 64), np.float32)})
    part = chain.run_part(chain.parts[1], {"latent": np.zeros((1, 4, 16, 8), np.float32)})
    assert now == 400.0 and {*whole.seconds.values(), *part.seconds.values()} == {0.0}
