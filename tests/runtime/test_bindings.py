"""Which bindings of CUDA are taken, what is said where there are none, and how a capture ends."""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from passionsr_trt.engines.common.errors import NotHereError, UserError
from passionsr_trt.engines.tensorrt.library import has_driver
from passionsr_trt.runtime.backends.tensorrt import graphs
from passionsr_trt.runtime.backends.tensorrt.bindings import BINDINGS, VARIABLE, Binding, binding
from passionsr_trt.runtime.backends.tensorrt.cuda_python import check_version

CUDA_PYTHON, PYCUDA = BINDINGS


@pytest.mark.parametrize(
    ("wanted", "broken", "taken"),
    [
        ("", [], CUDA_PYTHON),
        ("", [PYCUDA], CUDA_PYTHON),
        ("", [CUDA_PYTHON], PYCUDA),
        ("pycuda", [], PYCUDA),
        ("cuda-python", [PYCUDA], CUDA_PYTHON),
    ],
)
def test_cuda_python_is_taken_unless_pycuda_is_asked_for_or_alone(
    monkeypatch: pytest.MonkeyPatch, wanted: str, broken: list[Binding], taken: Binding
) -> None:
    monkeypatch.setenv(VARIABLE, wanted)
    monkeypatch.setattr(Binding, "problem", lambda self: "broken" if self in broken else "")
    assert binding() is taken


def test_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in BINDINGS:
        monkeypatch.setitem(sys.modules, each.module, None)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(NotHereError, match=r'cuda-python: .*pycuda: .*\[cuda\]"`; no compiler') as raised:
        binding()
    assert "\n" not in str(raised.value)
    monkeypatch.setenv(VARIABLE, "pycuda")
    with pytest.raises(NotHereError, match=r'expected pycuda; .*\[pycuda\]"`; it needs nvcc'):
        binding()
    monkeypatch.setenv(VARIABLE, "cupy")
    with pytest.raises(
        UserError, match=r"\$PASSIONSR_CUDA is 'cupy'; expected cuda-python or pycuda; or unset it"
    ):
        binding()


@pytest.mark.parametrize(("version", "told"), [("12.6.0", True), ("12.6.2.post1", False), ("13.4.4", False)])
def test_a_cuda_python_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, version: str, told: bool) -> None:
    monkeypatch.setitem(sys.modules, CUDA_PYTHON.module, None)
    monkeypatch.setattr(importlib.metadata, "version", {"cuda-python": version}.__getitem__)
    assert ("cuda-python 12.6.0 is here, expected 12.6.2 or newer" in CUDA_PYTHON.problem()) == told


def test_a_driver_older_than_the_bindings_is_refused_with_what_fits_it() -> None:
    check_version(13000, 13040)
    check_version(13020, 12090)
    with pytest.raises(UserError, match=r'knows CUDA 12\.4; .*13\.0 or newer; .*"cuda-bindings<13"'):
        check_version(12040, 13040)


def test_the_driver_is_found_by_its_name_where_ldconfig_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    monkeypatch.setattr(ctypes, "CDLL", names.append)
    assert has_driver() and names == ["nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"]

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not has_driver()


def test_without_cuda_python_it_is_said_once_that_there_are_no_graphs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    graphs.graph_driver.cache_clear()
    assert graphs.graph_driver() is None and graphs.graph_driver() is None
    graphs.graph_driver.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert "no CUDA graphs" in line and "cuda-python 12.6.2 or newer" in line and '.[cuda]"' in line


class Result(Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_ILLEGAL_STATE = 401


class CountedCaptures:
    """The calls of a capture, as cuda-python gives them: is a stream capturing, and which graphs are left?"""

    CUresult, CUstream = Result, int
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, begins: bool = True, instantiates: bool = True) -> None:
        self.begins, self.instantiates, self.capturing, self.made = begins, instantiates, False, 0
        self.left: set[int] = set()

    def cuStreamBeginCapture(self, _stream: int, _mode: int) -> tuple[Result]:
        self.capturing = self.begins
        return (Result.CUDA_SUCCESS if self.begins else Result.CUDA_ERROR_ILLEGAL_STATE,)

    def cuStreamEndCapture(self, _stream: int) -> tuple[Result, int | None]:
        if not self.capturing:
            return Result.CUDA_ERROR_ILLEGAL_STATE, None
        self.capturing = False
        return Result.CUDA_SUCCESS, self._graph()

    def cuGraphInstantiate(self, _graph: int, _flags: int) -> tuple[Result, int | None]:
        if not self.instantiates:
            return Result.CUDA_ERROR_ILLEGAL_STATE, None
        return Result.CUDA_SUCCESS, self._graph()

    def cuGraphDestroy(self, graph: int) -> tuple[Result]:
        self.left.remove(graph)
        return (Result.CUDA_SUCCESS,)

    cuGraphExecDestroy = cuGraphDestroy

    def _graph(self) -> int:
        self.made += 1
        self.left.add(self.made)
        return self.made


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("driver", "work"),
    [
        (CountedCaptures(), raising(UserError("refused"))),
        (CountedCaptures(begins=False), lambda: None),
        (CountedCaptures(instantiates=False), lambda: None),
    ],
    ids=["refused by the work", "not begun", "not made executable"],
)
def test_what_cannot_be_captured_is_none_and_leaves_nothing(driver: Any, work: Callable[[], None]) -> None:
    for _ in range(31):
        assert graphs.capture(driver, work, 7) is None
    assert not driver.capturing and not driver.left


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_whatever_is_raised_in_a_capture_ends_it_and_is_raised_again(kind: type[BaseException]) -> None:
    driver = CountedCaptures()
    with pytest.raises(kind):
        graphs.capture(driver, raising(kind()), 7)
    assert not driver.capturing and not driver.left
    graph = graphs.capture(driver, lambda: None, 7)
    assert graph is not None and len(driver.left) == 1
    graph.free()
    assert not driver.left
