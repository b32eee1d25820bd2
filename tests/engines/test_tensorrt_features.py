"""What TensorRT's versions and platforms can do, failures in plain words, and the real builder's flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from passionsr_trt.engines.bundle.backends import TENSORRT, TENSORRT_RTX, TargetOptions
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.tensorrt.features import explain, features
from passionsr_trt.engines.tensorrt.gpu import InstalledGPU, parse_gpus
from passionsr_trt.runtime.main import main

from tests.conftest import Built, needs_rtx


def test_platforms_differ_in_one_table() -> None:
    jetson = features(TENSORRT, "10.3.0", jetson=True)
    assert jetson.timing_cache and jetson.version_compatible and not jetson.hardware_compatible
    assert features(TENSORRT, "11.4.1", jetson=False).hardware_compatible
    rtx = features(TENSORRT_RTX, "1.7.1", jetson=False)
    assert rtx.foreign_capabilities and not rtx.timing_cache
    with pytest.raises(UserError, match=r"TensorRT 8\.6\.1 is too old"):
        features(TENSORRT, "8.6.1", jetson=False)
    with pytest.raises(UserError, match=r"TensorRT 10\.3\.0 on JetPack does not"):
        jetson.require("hardware_compatible", "--hardware-compatible")


def test_out_of_memory_is_called_so_even_where_it_comes_as_a_missing_kernel() -> None:
    missing = "Error Code 10: Could not find any implementation for node {ForeignNode[unet.a]}."
    fact, _expected, hint = explain(["[virtualMemoryBuffer] OutOfMemory (requested 12 GiB)", missing], 0)
    assert fact.startswith("ran out of memory (the GPU's memory)") and "--workspace" in hint
    assert explain([missing], 64)[0].startswith("ran out of memory (--workspace 64 MiB)")
    assert explain([missing], 0)[0] == missing
    fact, expected, _hint = explain(["No importer registered for op: GroupNormalization"], 0)
    assert "GroupNormalization" in fact and "operators" in expected
    assert explain([], 0)[0] == "no reason given"


def test_nvidia_smi_is_read() -> None:
    text = "NVIDIA GeForce RTX 4090, 8.9, 24564, 570.86.10\nOrin (nvgpu), 8.7, [N/A], 540.4.0\nnonsense\n"
    assert parse_gpus(text) == [
        InstalledGPU("NVIDIA GeForce RTX 4090", "8.9", 24564, "570.86.10"),
        InstalledGPU("Orin (nvgpu)", "8.7", 0, "540.4.0"),
    ]


@needs_rtx
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"timing_cache": Path("cache")}, "--timing-cache: TensorRT-RTX"),
        ({"version_compatible": True}, "--version-compatible: TensorRT-RTX"),
        ({"hardware_compatible": True}, "--hardware-compatible: TensorRT-RTX"),
    ],
)
def test_what_rtx_lacks_is_refused_before_the_build(small: Built, wanted: dict[str, Any], message: str) -> None:
    options = TargetOptions(compute_capabilities=("8.9",), **wanted)
    with pytest.raises(UserError, match=message):
        TENSORRT_RTX.builder_for([OnnxBundle.load(small.onnx_int8)], options)


@needs_rtx
def test_the_real_builder_takes_every_other_flag(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build-engines", str(small.onnx_int8), "-o", str(tmp_path), "--backend", "tensorrt-rtx"]
    words += ["--compute-capability", "8.9", "--optimization-level", "1", "--workspace", "512"]
    words += ["--size", "128x128", "--min-size", "64x64", "--batch", "3"]
    assert main([*words, "--require-int8", "1.0"]) == 0
    bundle = EngineBundle.load(tmp_path)
    assert bundle.target.batch == 3
    assert not any(figures.bytes_moved for figures in bundle.coverage.values()), "sizes are not fixed"
    capsys.readouterr()
    assert main(["predict", str(tmp_path)]) == 1
    assert "build for one --size" in capsys.readouterr().err


@needs_rtx
def test_a_graph_that_the_parser_does_not_know_is_named(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = OnnxBundle.load(small.onnx_int8)
    options = TargetOptions(compute_capabilities=("8.9",), size=(128, 128), min_size=(64, 64))
    builder = TENSORRT_RTX.builder_for([bundle], options)
    unknown = tmp_path / "unknown.onnx"
    model = onnx.load(str(small.onnx_int8 / "unet.onnx"))
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, str(unknown))
    monkeypatch.setattr("passionsr_trt.engines.tensorrt.backend.open_graph", lambda *_: unknown)
    with pytest.raises(UserError, match="the ONNX parser refused the graph"):
        builder.build(bundle, bundle.part("unet"), tmp_path)
