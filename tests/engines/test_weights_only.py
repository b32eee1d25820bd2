"""Codes of weights alone: what is in the bundles, who takes them, and what TensorRT-RTX makes of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from passionsr_trt.engines.bundle.backends import OPENVINO, TENSORRT, TENSORRT_RTX
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.formats import check_capabilities
from passionsr_trt.engines.bundle.wiring import PartInfo, SiteInfo, TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.coverage import measure
from passionsr_trt.engines.tensorrt.inspector import parse_layers
from passionsr_trt.engines.tensorrt.promises import promise
from passionsr_trt.runtime.main import main

from tests.conftest import Built, made_once, needs_rtx, needs_torch
from tests.engines.test_fp8 import one_line

# of TensorRT-RTX 1.7.1, SM 8.9, without strides and formats
CONV = """\
Name: __myl_CastMul_myl0_3, LayerType: kgen, Inputs: [], Constants: [ { Name: s, Dimensions: [1], \
Datatype: Half }, { Name: w, Dimensions: [64,64,3,3], Datatype: Int8 }], Outputs: [ { Name: h, \
Dimensions: [64,64,3,3], Datatype: Half }], TacticName: t, StreamId: 0, \
Metadata: [ONNX Layer: n.conv/weight/DequantizeLinear]
Name: n.conv_myl0_4, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,64,32,32], Datatype: Half }, \
{ Name: h, Dimensions: [64,64,3,3], Datatype: Half }], Constants: [ { Name: b, Dimensions: [1], \
Datatype: Float }], Outputs: [ { Name: y, Dimensions: [1,64,32,32], Datatype: Half }], TacticName: t, \
StreamId: 0, Metadata: [ONNX Layer: n.conv]
"""
LINEAR = """\
Name: __myl_CastMulCastFc_myl0_0, LayerType: runtime_fusion, Inputs: [ { Name: x, Dimensions: [1,1024,256], \
Datatype: Half }], Constants: [ { Name: s, Dimensions: [1,1,512], Datatype: Half }, { Name: w, \
Dimensions: [1,256,512], Datatype: Int8 }], Outputs: [ { Name: y, Dimensions: [1,1024,512], Datatype: Half }], \
TacticName: , StreamId: 0, Metadata: [ONNX Layer: n.linear][ONNX Layer: n.linear/weight/DequantizeLinear]
"""
MERGED = """\
Name: __myl_CastMulCast_myl0_5, LayerType: kgen, Inputs: [], Constants: [ { Name: s, Dimensions: [1,1,96], \
Datatype: Half }, { Name: w, Dimensions: [1,32,96], Datatype: Int8 }], Outputs: [ { Name: qkv, \
Dimensions: [1,32,96], Datatype: Half }], TacticName: t, StreamId: 0, Metadata:
Name: n.v+n.k+n.q_myl0_6, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,64,32], Datatype: Half }, \
{ Name: qkv, Dimensions: [1,32,96], Datatype: Half }], Constants: [ { Name: a, Dimensions: [1], \
Datatype: Float }], Outputs: [ { Name: y, Dimensions: [1,64,96], Datatype: Half }], TacticName: t, StreamId: 0, \
Metadata: [ONNX Layer: n.v][ONNX Layer: n.k][ONNX Layer: n.q]
"""
FOLDED = """\
Name: n.folded_myl0_4, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,64,32,32], Datatype: Half }], \
Constants: [ { Name: w, Dimensions: [64,64,3,3], Datatype: Half }], Outputs: [ { Name: y, \
Dimensions: [1,64,32,32], Datatype: Half }], TacticName: t, StreamId: 0, \
Metadata: [ONNX Layer: n.folded][ONNX Layer: n.folded/weight/DequantizeLinear]
"""


@pytest.fixture(scope="module")
def small_w8(small: Built, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's W8 bundle, from the calibration of its INT8 one, around it half precision."""
    words = ["export", str(small_model), "--cache", str(small.onnx_int8.parent / "cache"), "--format", "w8"]

    def make(out: Path) -> None:
        assert main([*words, "--precision", "fp16", "-o", str(out / "onnx")]) == 0

    return made_once(tmp_path_factory, "small_w8", make) / "onnx"


def constants(bundle: OnnxBundle, part: PartInfo) -> tuple[onnx.GraphProto, dict[str, onnx.TensorProto]]:
    graph = onnx.load(str(open_graph(bundle, part))).graph
    return graph, {tensor.name: tensor for tensor in graph.initializer}


def test_weights_are_the_calibration_s_codes_and_activations_have_none(small: Built, small_w8: Path) -> None:
    bundle, twin = OnnxBundle.load(small_w8), OnnxBundle.load(small.onnx_int8)
    assert bundle.label == "W8" and bundle.calibration_key == twin.calibration_key
    for part, other in zip(bundle.parts, twin.parts, strict=True):
        assert part.sites == other.sites
        graph, values = constants(bundle, part)
        assert not any(node.op_type == "QuantizeLinear" for node in graph.node)
        dequantize = [node for node in graph.node if node.op_type == "DequantizeLinear"]
        assert len(dequantize) == sum(site.quantized for site in part.sites) > 0
        _graph, expected = constants(twin, other)
        for node in dequantize:
            assert values[node.input[1]].data_type == onnx.TensorProto.FLOAT16
            name = node.input[0]
            np.testing.assert_array_equal(*(numpy_helper.to_array(each[name]) for each in (values, expected)))


def test_it_is_closer_to_float_than_int8(small: Built, small_w8: Path, photo: Path, tmp_path: Path) -> None:
    found = {}
    for name, bundle in (("int8", small.onnx_int8), ("w8", small_w8)):
        words = ["compare", str(photo), "--reference", str(small.onnx_fp32), "--engines", str(bundle)]
        assert main([*words, "-o", str(tmp_path / name), "--parts-on", "0"]) == 0
        found[name] = json.loads((tmp_path / name / "comparison.json").read_text())["mean"]["to_float"]["psnr"]
    assert found["w8"] > found["int8"] + 2


def test_openvino_refuses_it(small_w8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line(["build-engines", str(small_w8), "-o", str(tmp_path / "e")], capsys)
    assert "W8, whose products are float; expected INT8 or float" in line
    assert not (tmp_path / "e").exists()


@needs_rtx
def test_tensorrt_rtx_keeps_every_weight_in_8_bits(
    small: Built, small_w8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = tmp_path / "engines"
    words = [
        "--backend",
        "tensorrt-rtx",
        "--size",
        "64x64",
        "--compute-capability",
        "8.9",
        "--require-int8",
        "1.0",
    ]
    assert main(["build-engines", str(small_w8), "-o", str(engines), *words]) == 0
    printed = capsys.readouterr().out
    assert "8-bit weights at sites" in printed and "note: in TensorRT-RTX 8-bit weights" in printed
    bundle = EngineBundle.load(engines)
    for name, figures in bundle.coverage.items():
        assert figures.sites_weights == figures.sites_quantized > 0 and not figures.float_sites, name
        assert not figures.sites_int8 and not figures.sites_fp8
        kinds = {layer["codes"] for layer in json.loads((engines / f"{name}.layers.json").read_text())}
        assert kinds == {""}, "products are of floats"
    assert main(["predict", str(engines), "--gpu", "RTX 4090"]) == 0
    assert "W8" in capsys.readouterr().out


def part_of(*names: str) -> PartInfo:
    sites = tuple(SiteInfo(name, "conv", name, quantized=True, macs=100, macs_written=100) for name in names)
    tensor = TensorInfo("image", 3, 1)
    return PartInfo("n", "n.engine", (tensor,), TensorInfo("out", 3, 1), 1, sites=sites, format="w8")


def test_a_weight_in_a_kernel_of_its_own_a_fused_one_and_a_folded_one_are_told_apart() -> None:
    layers, kinds = parse_layers((CONV + LINEAR + MERGED + FOLDED).splitlines())
    coverage = measure(part_of("n.conv", "n.linear", "n.q", "n.k", "n.v", "n.folded"), layers, kinds)
    assert (coverage.sites_weights, coverage.sites_quantized, coverage.sites_running) == (5, 6, 5)
    assert coverage.float_sites == ["n.folded"] and coverage.macs_share == pytest.approx(5 / 6)
    assert "8-bit weights at sites 5/6" in coverage.line("n")
    assert [layer.codes for layer in layers] == [""] * 6, "none multiplies codes"
    assert kinds == Counter({"correlation": 2, "kgen": 2, "gemm": 1, "runtime_fusion": 1})


def test_which_gpus_take_it() -> None:
    check_capabilities("w8", ["7.5", "8.9"])
    check_capabilities("w8-fp8", ["8.9", "12.0"])
    check_capabilities("bf16", ["8.0", "8.7", ""])
    with pytest.raises(
        UserError, match=r"W8-FP8 on compute capability 8.6; expected 8.9 or newer; .*--format w8`"
    ):
        check_capabilities("w8-fp8", ["8.9", "8.6"])
    with pytest.raises(
        UserError, match=r"BF16 on compute capability 7.5; expected 8.0 or newer; .*--precision fp16`"
    ):
        check_capabilities("bf16", ["7.5"])


def test_bfloat16_is_refused_where_it_is_not_had(
    small: Built, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_torch()
    onnx_folder, engines = str(tmp_path / "onnx"), ["-o", str(tmp_path / "engines")]
    assert main(["export", str(small_model), "--float", "--precision", "bf16", "-o", onnx_folder]) == 0
    assert "exported with --precision bf16; expected fp32" in one_line(
        ["build-engines", onnx_folder, *engines], capsys
    )
    words = ["build-engines", onnx_folder, *engines, "--backend", "tensorrt-rtx", "--compute-capability", "7.5"]
    assert "BF16 on compute capability 7.5" in one_line(words, capsys)


def test_what_nvidia_promises_is_said_where_it_matters() -> None:
    assert "--format fp8" in promise(TENSORRT_RTX, {"int8"}, ["8.9", "12.0"])
    assert "--backend tensorrt" in promise(TENSORRT_RTX, {"int8", "fp16"}, ["8.6", "8.9"])
    assert "smaller engines, no faster" in promise(TENSORRT_RTX, {"w8"}, ["8.9"])
    for backend, formats in ((TENSORRT_RTX, {"fp8", "fp16"}), (TENSORRT, {"int8"}), (OPENVINO, {"int8"})):
        assert promise(backend, formats, ["8.9"]) == ""
