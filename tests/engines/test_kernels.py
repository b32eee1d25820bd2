"""Layer lists of TensorRT: the inspector's JSON of 10.x and 11.x, kernels' sizes, predicted times."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from passionsr_trt.engines.bundle.formats import FP8, capability
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.coverage import Layer
from passionsr_trt.engines.graph.kernels import TensorUse, kernel
from passionsr_trt.engines.tensorrt.inspector import parse_inspector
from passionsr_trt.engines.tensorrt.roofline import LAUNCH, KnownGPU, known_gpus, seconds

INT8_LAYOUT = "Thirty-two wide channel vectorized row major Int8 format"


def tensor(shape: list[int], dtype: str, new: bool) -> dict[str, object]:
    """A tensor as the inspector writes it; `new`: as 11.x does."""
    stated = {"DataType": dtype, "Format": "Row major linear"} if new else {"Format/Datatype": dtype}
    return {"Name": "t", "Location": "Device", "Dimensions": shape, **stated}


def report(new: bool) -> str:
    """A conv, a gemm of half inputs with int8 weights, a fused attention, a signal."""
    int8 = "Int8" if new else INT8_LAYOUT
    half = "Half" if new else "Row major linear FP16 format"
    heads = [[2, 64, 32], [2, 32, 64], [2, 64, 32]]
    layers = [
        {
            "Name": "unet.a + unet.a/input/QuantizeLinear",
            "LayerType": "CaskConvolution",
            "Inputs": [tensor([1, 64, 8, 8], int8, new)],
            "Outputs": [tensor([1, 32, 8, 8], half, new)],
            "Kernel": [3, 3],
            "OutMaps": 32,
            "Weights": {"Type": "Int8", "Count": 32 * 64 * 9},
            "Metadata": "[ONNX Layer: unet.a]\x1e[ONNX Layer: unet.a/input/QuantizeLinear]",
        },
        {
            "Name": "unet.b_myl0_3",
            "LayerType": "gemm",
            "Inputs": [tensor([1, 64, 16], half, new)],
            "Constants": [tensor([1, 16, 48], int8, new)],
            "Outputs": [tensor([1, 64, 48], half, new)],
            "Metadata": "[ONNX Layer: unet.b]",
        },
        {
            "Name": "_gemm_mha_v2_myl0_4",
            "LayerType": "kgen",
            "Inputs": [tensor(shape, half, new) for shape in heads],
            "Outputs": [tensor([2, 64, 32], int8, new)],
            "Metadata": "[ONNX Layer: node_matmul_4][ONNX Layer: node_softmax][ONNX Layer: node_matmul_5]",
        },
        {"Name": "s", "LayerType": "signal", "Inputs": [], "Outputs": [], "Metadata": ""},
    ]
    tensors = {"I/O Tensors": [{"Name": "x", "IOMode": "Input"}]} if new else {"Bindings": ["x"]}
    return json.dumps({"Layers": layers, **tensors})


@pytest.mark.parametrize("new", [False, True], ids=["10.x", "11.x"])
def test_both_dialects_of_the_inspector_say_the_same(new: bool) -> None:
    layers, kinds = parse_inspector(report(new))
    assert kinds == {"CaskConvolution Int8": 1, "gemm": 1, "kgen": 1}
    conv, gemm, attention = layers
    assert (
        conv.codes == "Int8"
        and conv.precision == "Int8"
        and conv.names == ("unet.a", "unet.a/input/QuantizeLinear")
    )
    assert conv.macs == 32 * 8 * 8 * 64 * 9
    assert conv.bytes_moved == 64 * 64 + 32 * 64 * 9 + 2 * 32 * 64
    assert not gemm.codes and gemm.macs == 64 * 48 * 16, "int8 weights with half inputs are weight-only"
    assert attention.attention and attention.macs == 2 * (2 * 64 * 64 * 32) and attention.precision == "Half"


def test_an_engine_without_details_is_refused() -> None:
    with pytest.raises(UserError, match="only its layers' names"):
        parse_inspector(json.dumps({"Layers": ["conv1", "conv2"], "Bindings": []}))
    with pytest.raises(UserError, match="no layer list"):
        parse_inspector("not json")


def test_a_bias_is_not_taken_for_the_weight() -> None:
    bias, weight = TensorUse((1, 32, 1, 1), "Float"), TensorUse((32, 64, 1, 1), "Int8")
    uses = [TensorUse((1, 64, 8, 8), "Int8")], [bias, weight], [TensorUse((1, 32, 8, 8), "Float")]
    assert kernel("c", "correlation", [], *uses).macs == 32 * 64 * 64


def test_a_kernel_takes_the_longer_of_arithmetic_and_memory() -> None:
    gpu = KnownGPU("one", 1.0, 2.0, int8=4.0, fp8=8.0, bandwidth=1.0, capability="8.9", source="")
    busy = Layer("a", "gemm", "Int8", macs=2 * 10**12, bytes_moved=10, precision="Int8")
    wide = Layer("b", "kgen", "", bytes_moved=3 * 10**9, precision="Half")
    assert seconds([busy], gpu) == pytest.approx(1.0 + LAUNCH)
    assert seconds([replace(busy, codes="FP8", precision="FP8")], gpu) == pytest.approx(0.5 + LAUNCH)
    assert seconds([wide], gpu) == pytest.approx(3.0 + LAUNCH)
    assert seconds([busy, wide], gpu) == pytest.approx(4.0 + 2 * LAUNCH)


def test_every_known_gpu_has_a_source_and_rates_in_order() -> None:
    gpus = known_gpus()
    assert len(gpus) == 8
    for gpu in gpus:
        assert gpu.source and gpu.float32 < gpu.half < gpu.int8 and gpu.bandwidth > 50
        assert (gpu.fp8 > gpu.half) == (capability(gpu.capability) >= FP8.capability), gpu.name


@pytest.mark.parametrize("stated", ["FP8", "E4M3 FP8", "Row major linear FP8 format", "Float8E4M3FN"])
def test_the_inspector_s_words_for_fp8_are_known(stated: str) -> None:
    text = report(new=False).replace(INT8_LAYOUT, stated)
    layers, _kinds = parse_inspector(text)
    assert layers[0].codes == layers[0].precision == "FP8" and layers[0].bytes_moved > 0
