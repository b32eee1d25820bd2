"""Shared fixtures: the demo's bundles and engines are made once a run, by the real commands.

`make test` runs two processes (pytest-xdist): the one that comes first makes a fixture's folder, the other waits.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from passionsr_trt.runtime.main import main

from tests.scheduling import longest_first, scheduler

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
COMMITTED = ROOT / "tests" / "data" / "small"  # `small`'s ONNX bundles, made by tests/make_data.py
TINY = ROOT / "tests" / "data" / "tiny"  # pictures of 32×32: for calibrations that need no more
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="needs TensorRT-RTX: compiles an engine"
)
HAS_TORCH = importlib.util.find_spec("torch") is not None


def pytest_configure() -> None:
    """Tests send Ctrl-C; a shell has what it runs in the background ignore that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """No session is made while tests are collected: every process would pay for it, whatever it runs."""

    def refused(*_arguments: object, **_options: object) -> None:
        pytest.fail("an ONNX Runtime session while tests are collected; expected it in a test or a fixture")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxruntime.InferenceSession", refused)
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest_first(items)


def pytest_collection_finish() -> None:
    """Modules and tests stay: garbage collection, an eighth of an export's time, need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return scheduler(config, log) if config.option.dist == "loadscope" else None


@dataclass(frozen=True)
class Built:
    """Folders of one model's ONNX bundles and OpenVINO engines."""

    onnx_fp32: Path
    onnx_int8: Path
    engines_fp32: Path
    engines_int8: Path

    @classmethod
    def within(cls, folder: Path) -> Built:
        return cls(*(folder / name for name in ("onnx_fp32", "onnx_int8", "engines_fp32", "engines_int8")))


def export(model: Path, cache: Path, out: Path) -> None:
    """The float and the INT8 bundle, out/onnx_fp32 and out/onnx_int8."""
    unnamed = ["--name", ""]
    assert main(["export", str(model), "--float", *unnamed, "-o", str(out / "onnx_fp32")]) == 0
    assert main(["export", str(model), "--cache", str(cache), *unnamed, "-o", str(out / "onnx_int8")]) == 0


def calibrate_and_export(model: Path, out: Path) -> None:
    images, cache = str(DEMO / "calib" / "lr"), out / "cache"
    words = ["--images", images, "--limit", "2", "--method", "range", "--cache", str(cache)]
    assert main(["calibrate", str(model), *words]) == 0
    export(model, cache, out)


def build(out: Path) -> None:
    """The engines of both bundles in `out`, beside them."""
    for precision in ("fp32", "int8"):
        bundle, engines = out / f"onnx_{precision}", out / f"engines_{precision}"
        assert main(["build-engines", str(bundle), "-o", str(engines)]) == 0


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` as `make` leaves it, made by the first process that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.unfinished")
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


def needs_torch() -> None:
    if not HAS_TORCH:
        pytest.skip("needs PyTorch: exports a model")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The demo model with its committed calibration."""
    needs_torch()

    def make(out: Path) -> None:
        export(DEMO / "model", ROOT / "calib_cache", out)
        build(out)

    return Built.within(made_once(tmp_path_factory, "demo", make))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-channel AutoencoderKL model at t = 999, ×2."""
    needs_torch()
    from tests.helpers import write_model

    return made_once(tmp_path_factory, "small_model", lambda out: write_model(out / "model")) / "model"


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The small model calibrated on two photos, through every stage; without PyTorch from committed bundles."""

    def make(out: Path) -> None:
        if HAS_TORCH:
            calibrate_and_export(request.getfixturevalue("small_model"), out)
        else:
            shutil.copytree(COMMITTED, out, dirs_exist_ok=True)
        build(out)

    return Built.within(made_once(tmp_path_factory, "small", make))


@pytest.fixture(scope="session")
def small_fp8(small: Built, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's FP8 bundle, from the calibration of its INT8 one."""
    cache = small.onnx_int8.parent / "cache"
    words = ["export", str(small_model), "--name", "", "--cache", str(cache), "--format", "fp8"]

    def make(out: Path) -> None:
        assert main([*words, "-o", str(out / "onnx")]) == 0

    return made_once(tmp_path_factory, "small_fp8", make) / "onnx"


@pytest.fixture
def photo() -> Path:
    """The smallest demo photo, 112×75 pixels."""
    return DEMO / "photos" / "lr" / "chelsea.png"
