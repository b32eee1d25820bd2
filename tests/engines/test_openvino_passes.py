"""Graphs rewritten for OpenVINO's kernels: the same numbers, in ONNX Runtime and in OpenVINO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.graph.coverage import openvino_layers
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino.compile import compile_static, has_bfloat16
from passionsr_trt.engines.openvino.passes import attention as attention_pass
from passionsr_trt.engines.openvino.passes.attention import AttentionInBfloat16
from passionsr_trt.engines.openvino.passes.enlargements import CodesBeforeEnlargements
from passionsr_trt.engines.openvino.passes.norms import NormsByChannel
from passionsr_trt.runtime.main import main

from tests.conftest import Built
from tests.engines.rewriting import rewrite

pytestmark = pytest.mark.kernels

CHANNELS, GROUPS = 32, 8
RANDOM = np.random.default_rng(0)


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], output: str) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CHANNELS, "height", "width"])
        for name in ("x", output)
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def group_norm(scale: float = 1.0, epsilon: float = 1e-6) -> onnx.ModelProto:
    """x → group norm as PyTorch exports it → y."""
    constants = {
        "groups": np.array([0, GROUPS, -1]),
        "scale": np.full(GROUPS, scale, np.float32),
        "shift": np.zeros(GROUPS, np.float32),
        "gain": RANDOM.standard_normal((CHANNELS, 1, 1)).astype(np.float32),
        "offset": RANDOM.standard_normal((CHANNELS, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "groups"], ["flat"]),
        helper.make_node("InstanceNormalization", ["flat", "scale", "shift"], ["normal"], "norm", epsilon=epsilon),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["normal", "shape"], ["whole"]),
        helper.make_node("Mul", ["whole", "gain"], ["gained"]),
        helper.make_node("Add", ["gained", "offset"], ["y"]),
    ]
    return model_of(nodes, constants, "y")


def enlargement(mode: str = "nearest", between: bool = False) -> onnx.ModelProto:
    """x → twice as large → Q → DQ → y, with a Relu in between or not."""
    constants = {"sizes": np.array([1, 1, 2, 2], np.float32), "step": np.float32(0.02), "zero": np.int8(0)}
    nodes = [helper.make_node("Resize", ["x", "", "sizes"], ["large"], mode=mode)]
    if between:
        nodes.append(helper.make_node("Relu", ["large"], ["kept"]))
    nodes += [
        helper.make_node("QuantizeLinear", ["kept" if between else "large", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["y"]),
    ]
    return model_of(nodes, {name: np.asarray(value) for name, value in constants.items()}, "y")


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model)
    result: np.ndarray = reference_session(model).run(None, {"x": x})[0]
    return result


def run_openvino(model: onnx.ModelProto, x: np.ndarray, folder: Path) -> np.ndarray:
    onnx.save(model, str(folder / "model.onnx"))
    result: np.ndarray = compile_static(folder / "model.onnx", {"x": x.shape})([x])[0]
    return result


def far(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("mean", "limit"), [(0.0, 1e-5), (10.0, 3e-4)], ids=["centred", "10 sigma off"])
def test_a_norm_by_channel_is_the_norm(tmp_path: Path, mean: float, limit: float) -> None:
    spread = RANDOM.uniform(0.1, 3, (CHANNELS, 1, 1))
    x = ((RANDOM.standard_normal((2, CHANNELS, 48, 80)) + mean) * spread).astype(np.float32)
    model = group_norm()
    expected = run(model, x)
    assert rewrite(model, NormsByChannel()) == 1
    assert "InstanceNormalization" not in {node.op_type for node in model.graph.node}
    assert far(run(model, x), expected) < limit
    assert far(run_openvino(model, x, tmp_path), expected) < limit


def test_a_flat_tensor_stays_finite(tmp_path: Path) -> None:
    x = np.broadcast_to(np.linspace(-3, 3, CHANNELS, dtype=np.float32)[:, None, None], (1, CHANNELS, 64, 64))
    x = np.ascontiguousarray(x)
    model = group_norm()
    expected = run(model, x)
    rewrite(model, NormsByChannel())
    assert far(run_openvino(model, x, tmp_path), expected) < 1e-3


def test_norms_of_another_form_are_left_alone() -> None:
    other = group_norm(scale=2.0)
    assert rewrite(other, NormsByChannel()) == 0


def test_codes_are_enlarged_instead_of_values(tmp_path: Path) -> None:
    x = RANDOM.standard_normal((1, CHANNELS, 9, 7)).astype(np.float32)
    model = enlargement()
    expected = run(model, x)
    assert rewrite(model, CodesBeforeEnlargements()) == 1
    assert [node.op_type for node in model.graph.node] == ["QuantizeLinear", "Resize", "DequantizeLinear"]
    assert np.array_equal(run(model, x), expected)
    assert far(run_openvino(model, x, tmp_path), expected) < 1e-6


@pytest.mark.parametrize("other", [{"mode": "linear"}, {"between": True}], ids=str)
def test_only_nearest_enlargements_right_before_a_quantizer_change(other: dict[str, Any]) -> None:
    assert rewrite(enlargement(**other), CodesBeforeEnlargements()) == 0


def attention(masked: bool = False) -> onnx.ModelProto:
    """x [1,C,H,W] → attention over its pixels, one head, x as keys and values, turned as queries → y."""
    turn = np.linalg.qr(RANDOM.standard_normal((CHANNELS, CHANNELS)))[0] / np.sqrt(CHANNELS)
    constants = {"flat": np.array([0, CHANNELS, -1]), "turn": turn.astype(np.float32)}
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["keys"]),
        helper.make_node("Transpose", ["keys"], ["values"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["values", "turn"], ["queries"]),
        helper.make_node("MatMul", ["queries", "keys"], ["scores"]),
        *([helper.make_node("Relu", ["scores"], ["masked"])] if masked else []),
        helper.make_node("Softmax", ["masked" if masked else "scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "values"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["back", "shape"], ["y"]),
    ]
    return model_of(nodes, constants, "y")


@pytest.mark.parametrize(("spread", "limit"), [(1.0, 0.005), (8.0, 0.02)])
def test_attention_in_bfloat16_is_nearly_the_same(tmp_path: Path, spread: float, limit: float) -> None:
    x = RANDOM.standard_normal((1, CHANNELS, 32, 32)).astype(np.float32) * np.float32(np.sqrt(spread))
    model = attention()
    expected = run_openvino(model, x, tmp_path)
    assert far(expected, run(model, x)) < 1e-5
    assert rewrite(model, AttentionInBfloat16()) == 1
    onnx.checker.check_model(model, full_check=True)
    found = run_openvino(model, x, tmp_path)
    if has_bfloat16():
        assert 1e-5 < far(found, expected) < limit
    assert rewrite(attention(masked=True), AttentionInBfloat16()) == 0, "of another form"
    in_pieces = attention()
    in_pieces.graph.node.insert(4, helper.make_node("MatMul", ["queries", "keys"], ["other_scores"]))
    assert rewrite(in_pieces, AttentionInBfloat16()) == 0, "other queries read the same keys"


def attention_in_pieces() -> onnx.ModelProto:
    """The same with the two halves of the queries one after the other."""
    model = attention()
    nodes = {node.output[0]: node for node in model.graph.node}
    pieces = [helper.make_node("Split", ["queries"], ["first", "second"], axis=1, num_outputs=2)]
    for name in pieces[0].output:
        pieces += [
            helper.make_node("MatMul", [name, "keys"], [f"{name} scores"]),
            helper.make_node("Softmax", [f"{name} scores"], [f"{name} shares"], axis=-1),
            helper.make_node("MatMul", [f"{name} shares", "values"], [f"{name} mixed"]),
        ]
    pieces.append(helper.make_node("Concat", ["first mixed", "second mixed"], ["mixed"], axis=1))
    before, behind = (
        [nodes[name] for name in names] for names in (("keys", "values", "queries"), ("back", "shape", "y"))
    )
    del model.graph.node[:]
    model.graph.node.extend([*before, *pieces, *behind])
    return model


@pytest.mark.parametrize(("spread", "limit"), [(1.0, 0.01), (8.0, 0.04)])
@pytest.mark.parametrize(("make", "softmaxes"), [(attention, 1), (attention_in_pieces, 2)])
def test_wide_heads_are_products_of_their_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], onnx.ModelProto],
    softmaxes: int,
    spread: float,
    limit: float,
) -> None:
    monkeypatch.setattr(attention_pass, "WIDE_HEAD", CHANNELS)
    x = RANDOM.standard_normal((1, CHANNELS, 32, 32)).astype(np.float32) * np.float32(np.sqrt(spread))
    model = make()
    model.graph.value_info.append(
        helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", "tokens", CHANNELS])
    )
    expected = run(model, x)
    assert rewrite(model, AttentionInBfloat16()) == softmaxes
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("Cast") == 2 + 2 * softmaxes, "keys and values once"
    found = run_openvino(model, x, tmp_path)
    if has_bfloat16():
        assert 1e-5 < far(found, expected) < limit
    for node in model.graph.node:
        node.name = f"node_{node.op_type.lower()}_{node.output[0]}"
    onnx.save(model, str(tmp_path / "named.onnx"))
    layers, _kinds = openvino_layers(compile_static(tmp_path / "named.onnx", {"x": x.shape}))
    assert not any(layer.attention for layer in layers)


def test_fused_attention_is_seen_in_the_execution_graph(tmp_path: Path) -> None:
    path = tmp_path / "attention.onnx"
    model = attention()
    for node in model.graph.node:
        node.name = f"node_{node.op_type.lower()}_{node.output[0]}"
    onnx.save(model, str(path))
    layers, _kinds = openvino_layers(compile_static(path, {"x": (1, CHANNELS, 32, 32)}))
    apart = {"node_matmul_scores", "node_matmul_mixed"} & {layer.name for layer in layers}
    assert sum(layer.attention for layer in layers) == (0 if len(apart) == 2 else 1)


def kinds(folder: Path, part: str) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(folder / f"{part}.onnx")).graph.node)


@pytest.mark.slow
def test_engines_are_rewritten_where_they_run_in_float32(small: Built, tmp_path: Path) -> None:
    assert kinds(small.onnx_int8, "vae_decoder")["InstanceNormalization"]
    for folder in (small.engines_int8, small.engines_fp32):
        for part in ("vae_encoder", "vae_decoder"):
            assert not kinds(folder, part)["InstanceNormalization"]
            assert kinds(folder, part)["ReduceL2"]
            casts = kinds(folder, part)["Cast"] - kinds(folder, part)["ReduceL2"]  # each norm has one
            assert casts == (4 if folder == small.engines_int8 and has_bfloat16() else 0)
    kept, written = (kinds(at, "unet")["InstanceNormalization"] for at in (small.engines_int8, small.onnx_int8))
    assert written and kept == (written if has_bfloat16() else 0), "it runs in bfloat16 where the CPU has it"
    assert main(["build-engines", str(small.onnx_int8), "-o", str(tmp_path / "e"), "--float32"]) == 0
    assert not kinds(tmp_path / "e", "unet")["InstanceNormalization"]
    assert kinds(tmp_path / "e", "vae_decoder")["Cast"] == kinds(tmp_path / "e", "vae_decoder")["ReduceL2"]
