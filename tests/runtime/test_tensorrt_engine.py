"""What is said where TensorRT refuses, or answers with a failure that looks like a result.

No engine runs here. The library's own part in this needs no GPU: it is asked to load a file that is no engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.engines.bundle.backends import TENSORRT_RTX
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.tensorrt.engine import (
    TensorRTContext,
    TensorRTEngine,
    keep_kernels,
    make_log,
    not_loaded,
)
from passionsr_trt.runtime.backends.tensorrt.executor import DeviceExecutor

from tests.simulated_gpu import SimulatedDevice, SimulatedEngine
from tests.tiny_chain import MOST, PARTS, graph_of


class Refusing:
    """The calls of an execution context, each answered with TensorRT's sign of failure."""

    def update_device_memory_size_for_shapes(self) -> int:
        return 0

    def set_device_memory(self, _memory: int, size: int) -> None:
        self.size = size

    def set_tensor_address(self, _name: str, _memory: int) -> bool:
        return False

    def execute_async_v3(self, _stream: int) -> bool:
        return False


def test_memory_that_is_refused_is_told_with_tensorrt_s_reason() -> None:
    context = TensorRTContext(Refusing(), 64, ["IExecutionContext::setTensorAddress: no such tensor"])
    with pytest.raises(
        UserError, match=r"^image: TensorRT does not take its memory \(.*no such tensor\); expected"
    ):
        context.bind({"image": 512}, 1024)


def test_a_failed_question_for_scratch_memory_takes_the_most_that_any_shape_needs() -> None:
    context, refusing = TensorRTContext(Refusing(), 4096), Refusing()
    assert context.scratch == 4096
    context = TensorRTContext(refusing, 4096)
    context.bind({}, 512)
    assert refusing.size == 4096


def test_an_enqueue_that_fails_is_one_line() -> None:
    stream: Any = type("Stream", (), {"handle": 7})
    with pytest.raises(UserError, match=r"could not enqueue the engine; run `passionsr-trt doctor`"):
        TensorRTContext(Refusing(), 64).enqueue(stream)


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (["[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"], "out of GPU memory"),
        (["OutOfMemory (Requested size was 4 GiB)", "deserialization failed"], "out of GPU memory"),
        (
            ["Error Code 6: The engine plan file is generated on an incompatible device"],
            "for this GPU and version",
        ),
        ([], "for this GPU and version"),
    ],
)
def test_out_of_memory_while_loading_is_told_from_a_wrong_gpu(errors: list[str], told: str) -> None:
    line = str(not_loaded(Path("unet.engine"), "tensorrt 10.3", errors))
    assert line.startswith("unet.engine: ") and told in line and "\n" not in line
    assert not errors or errors[0] in line or errors[-1] in line


def test_a_runtime_cache_that_gives_nothing_is_no_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path))
    keep_kernels("rtx", "kernels", None)
    assert not list(tmp_path.rglob("*")) and "no compiled kernels" in capsys.readouterr().err
    keep_kernels("rtx", "kernels", memoryview(b"kernels"))
    assert (tmp_path / "rtx" / "kernels").read_bytes() == b"kernels"


def test_the_device_is_closed_whatever_closing_an_engine_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimulatedDevice()
    engines = {part.name: SimulatedEngine(graph_of(part), part, device, MOST) for part in PARTS}
    close = SimulatedEngine.close

    def failing(engine: SimulatedEngine) -> None:
        close(engine)
        raise TypeError("cannot convert 'NoneType' object to bytes")

    monkeypatch.setattr(SimulatedEngine, "close", failing)
    executor = DeviceExecutor(device, engines)
    with pytest.raises(TypeError):
        executor.close()
    assert not device.open and not device.made


def test_a_file_that_is_no_engine_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX")
    path = tmp_path / "unet.engine"
    path.write_bytes(b"no engine" * 100)
    with pytest.raises(UserError, match=r"cannot load it \(.+\); expected an engine for this GPU") as raised:
        TensorRTEngine(path, TENSORRT_RTX)
    assert "\n" not in str(raised.value) and "TensorRT: " in capsys.readouterr().err


def test_the_library_s_errors_are_kept_and_its_chatter_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX")
    log = make_log(trt)
    for severity in (trt.ILogger.VERBOSE, trt.ILogger.WARNING, trt.ILogger.ERROR):
        log.log(severity, f"a message of {severity.name}\nand more")
    assert log.errors == ["a message of ERROR"]
    printed = capsys.readouterr().err
    assert "of WARNING" in printed and "of ERROR" in printed and "VERBOSE" not in printed
