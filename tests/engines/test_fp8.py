"""FP8 bundles: what is in them, who takes them, and who says in one line why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from passionsr_trt.engines.bundle.backends import TargetOptions
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.formats import FP8, INT8, check_capabilities
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.tensorrt import backend as builder
from passionsr_trt.engines.tensorrt.gpu import jetson_capability
from passionsr_trt.runtime.main import main

from tests.conftest import DEMO, Built, needs_rtx, needs_torch


def one_line(words: list[str], capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    capsys.readouterr()
    assert main(words) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_the_same_sites_are_quantized_in_float8(small: Built, small_fp8: Path) -> None:
    bundle, twin = OnnxBundle.load(small_fp8), OnnxBundle.load(small.onnx_int8)
    assert bundle.label == "FP8" and {part.format for part in bundle.parts} == {"fp8"}
    assert bundle.calibration_key == twin.calibration_key and bundle.spec == twin.spec
    for part, other in zip(bundle.parts, twin.parts, strict=True):
        assert part.sites == other.sites
        model = onnx.load(str(open_graph(bundle, part)))
        assert next(entry.version for entry in model.opset_import if not entry.domain) >= 19
        values = {tensor.name: tensor for tensor in model.graph.initializer}
        pairs = [node for node in model.graph.node if node.op_type.endswith("QuantizeLinear")]
        pairs += [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
        assert pairs
        for node in pairs:
            assert values[node.input[2]].data_type == onnx.TensorProto.FLOAT8E4M3FN
            assert np.all(numpy_helper.to_array(values[node.input[1]]) > 0)
        codes = [node.input[0] for node in pairs if node.input[0] in values]
        quantized = [site for site in part.sites if site.quantized]
        assert len(set(codes)) == len(quantized)
        for name in codes:
            found = numpy_helper.to_array(values[name]).astype(np.float32)
            assert np.isfinite(found).all() and 224 <= np.abs(found).max() <= 448


def test_openvino_refuses_it(small_fp8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line(["build-engines", str(small_fp8), "-o", str(tmp_path / "e")], capsys)
    assert "FP8, for which OpenVINO has no CPU kernels" in line and "--format int8" in line
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6"])
def test_tensorrt_rtx_refuses_it_before_ada(
    small_fp8: Path, tmp_path: Path, capability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build-engines", str(small_fp8), "-o", str(tmp_path / "e"), "--backend", "tensorrt-rtx"]
    line = one_line([*words, "--compute-capability", "8.9", "--compute-capability", capability], capsys)
    assert f"FP8 on compute capability {capability}; expected 8.9 or newer" in line


@pytest.mark.parametrize(
    ("capability", "taken"),
    [
        ("7.5", False),
        ("8.0", False),
        ("8.6", False),
        ("8.7", False),
        ("8.9", True),
        ("9.0", True),
        ("11.0", True),
        ("", True),
    ],
)
def test_tensorrt_takes_it_by_the_gpu_at_hand(
    small: Built, small_fp8: Path, capability: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that does not tell leaves it to TensorRT."""
    monkeypatch.setattr(builder, "target_name", lambda: {"gpu": "some", "capability": capability})
    options = TargetOptions(size=(512, 512))
    assert builder.target_of([OnnxBundle.load(small.onnx_int8)], options).capability == capability
    if taken:
        builder.target_of([OnnxBundle.load(small_fp8)], options)
        return
    with pytest.raises(UserError, match=f"FP8 on compute capability {capability}; expected 8.9 or newer"):
        builder.target_of([OnnxBundle.load(small_fp8)], options)


def test_capabilities_are_compared_as_numbers() -> None:
    check_capabilities("fp8", ["10.0", "12.0"])  # as text before 8.9
    check_capabilities("int8", ["7.5"])
    check_capabilities("fp16", ["7.0"])
    with pytest.raises(UserError, match=r"INT8 on compute capability 7\.2"):
        check_capabilities("int8", ["7.2"])
    assert FP8.capability > INT8.capability


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", "8.7"),
        ("NVIDIA Jetson AGX Thor", "11.0"),
        ("NVIDIA Jetson Nano", ""),
    ],
)
def test_a_jetson_s_capability_is_known_by_its_name(name: str, expected: str) -> None:
    assert jetson_capability(name) == expected


def test_a_float_export_has_no_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_torch()
    words = ["export", str(DEMO / "model"), "--float", "--format", "fp8", "-o", str(tmp_path / "o")]
    assert "--float and --format fp8" in one_line(words, capsys, status=2)


def test_another_format_is_exported_again(
    small: Built, small_fp8: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from passionsr_trt.export import cli

    arguments = {"output": small_fp8, "precision": "fp32", "size": None, "force": False, "name": ""}
    key = OnnxBundle.load(small_fp8).calibration_key
    digest = OnnxBundle.load(small_fp8).model.digest
    for name, expected in (("fp8", True), ("int8", False)):
        assert cli.is_current(type("Arguments", (), {**arguments, "format": name})(), digest, key) is expected


def test_a_manifest_that_states_another_format_is_refused(small_fp8: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_fp8, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for part in manifest["parts"]:
        part["format"] = "int8"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    bundle = OnnxBundle.load(copy)
    with pytest.raises(UserError, match="is not int8"):
        open_graph(bundle, bundle.parts[0])
    manifest["parts"][0]["format"] = "fp4"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="a part's format is"):
        OnnxBundle.load(copy)
    del manifest["parts"][0]["format"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="a part's format is"):
        OnnxBundle.load(copy)


def test_compare_judges_it_by_the_reference_executor(
    small: Built, small_fp8: Path, photo: Path, tmp_path: Path
) -> None:
    words = ["compare", str(photo), "--reference", str(small.onnx_fp32), "--engines", str(small_fp8)]
    assert main([*words, "-o", str(tmp_path), "--parts-on", "0"]) == 0
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert report["tested"] == "ONNX Runtime FP8"
    assert 20 < report["mean"]["to_float"]["psnr"] < 60


@needs_rtx
def test_tensorrt_rtx_runs_every_site_in_fp8_on_ada_and_blackwell(small_fp8: Path, tmp_path: Path) -> None:
    words = ["build-engines", str(small_fp8), "-o", str(tmp_path), "--backend", "tensorrt-rtx", "--size", "64x64"]
    words += ["--compute-capability", "8.9", "--compute-capability", "12.0"]
    assert main([*words, "--require-int8", "1.0"]) == 0
    bundle = EngineBundle.load(tmp_path)
    assert bundle.key["ONNX bundle"] == sha256(small_fp8 / "manifest.json")
    for part, figures in bundle.coverage.items():
        assert figures.sites_fp8 == figures.sites_quantized > 0 and not figures.sites_int8, part
        assert figures.bytes_moved > 0


def test_the_chain_in_one_file_is_the_bundle_s_own(small_fp8: Path, tmp_path: Path) -> None:
    """Checked bit by bit when it is written, behind every ReLU too."""
    from passionsr_trt.export.onnx.single_file import write_single_file

    write_single_file(OnnxBundle.load(small_fp8), tmp_path / "one.onnx")
    model = onnx.load(str(tmp_path / "one.onnx"))
    assert {entry.key: entry.value for entry in model.metadata_props}["precision"] == "FP8"
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in types and onnx.TensorProto.INT8 not in types
