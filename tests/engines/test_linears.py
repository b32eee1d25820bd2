"""INT8 linears as 1×1 convolutions: the same sums, every site still INT8, weights outside the graph too."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.graph.coverage import measure, openvino_layers
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino import backend as openvino_builder
from passionsr_trt.engines.openvino.compile import compile_static
from passionsr_trt.engines.openvino.passes.linears import LinearsAsConvolutions
from passionsr_trt.runtime.main import main

from tests.conftest import Built
from tests.engines.rewriting import rewrite, rewrite_outside

TOKENS, CHANNELS, OUTPUTS = 6, 16, 24


def graph(shared: bool = False, bias: bool = True, rank: int = 3) -> onnx.ModelProto:
    """x → Q → DQ → two linears, one with a bias; `shared`: something else reads the port as well."""
    rng = np.random.default_rng(0)
    shape = [2, TOKENS, CHANNELS] if rank == 3 else [2, 1, TOKENS, CHANNELS]
    constants = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(0, np.int8),
        "bias": rng.standard_normal(OUTPUTS).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], name="a/input/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"], name="a/input/DequantizeLinear"),
    ]
    for site in ("a", "b"):
        constants[f"{site}.codes"] = rng.integers(-127, 128, (CHANNELS, OUTPUTS), np.int8)
        constants[f"{site}.scale"] = rng.uniform(0.001, 0.01, OUTPUTS).astype(np.float32)
        constants[f"{site}.zero"] = np.zeros(OUTPUTS, np.int8)
        inputs = [f"{site}.{name}" for name in ("codes", "scale", "zero")]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{site}.weight"], axis=1))
        nodes.append(helper.make_node("MatMul", ["y", f"{site}.weight"], [f"{site}.out"], name=site))
    last = "a.out"
    if bias:
        nodes.append(helper.make_node("Add", ["bias", "a.out"], ["a.biased"]))
        last = "a.biased"
    nodes.append(helper.make_node("Mul", [last, "b.out"], ["product"]))
    if shared:
        nodes.append(helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0))
        nodes.append(helper.make_node("Add", ["product", "sum"], ["out"]))
    else:
        nodes.append(helper.make_node("Identity", ["product"], ["out"]))
    made = helper.make_graph(
        nodes,
        "linears",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [*shape[:-1], OUTPUTS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    result: np.ndarray = reference_session(model).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_give_what_linears_gave(shared: bool, bias: bool) -> None:
    model = graph(shared, bias)
    x = np.random.default_rng(1).standard_normal((2, TOKENS, CHANNELS)).astype(np.float32)
    before = run(model, x)
    assert rewrite(model, LinearsAsConvolutions()) == 1, "one port"
    onnx.checker.check_model(model)
    np.testing.assert_allclose(run(model, x), before, rtol=1e-4, atol=1e-5)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 2 and "MatMul" not in kinds
    assert kinds.count("QuantizeLinear") == (2 if shared else 1), "a port's codes are made once for its linears"
    assert {node.name for node in model.graph.node if node.op_type == "Conv"} == {"a", "b"}
    assert rewrite(model, LinearsAsConvolutions()) == 0, "nothing is left to do a second time"


def test_tokens_that_become_channels_are_not_turned_twice(tmp_path: Path) -> None:
    """OpenVINO gets the transposition back and another one behind it wrong."""
    model = graph()
    for tensor in (tensor for tensor in model.graph.initializer if tensor.name.endswith("codes")):
        tensor.CopyFrom(numpy_helper.from_array(np.clip(numpy_helper.to_array(tensor), -63, 63), tensor.name))
    del model.graph.node[-2:]
    model.graph.node.append(helper.make_node("Transpose", ["a.biased"], ["out"], perm=[0, 2, 1]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, OUTPUTS, TOKENS]))
    x = np.random.default_rng(1).standard_normal((2, TOKENS, CHANNELS)).astype(np.float32)
    before = run(model, x)
    assert rewrite(model, LinearsAsConvolutions()) == 1, "one port"
    np.testing.assert_allclose(run(model, x), before, rtol=1e-4, atol=1e-5)
    turned = [node for node in model.graph.node if node.op_type == "Transpose" and "a." in node.output[0]]
    assert not turned
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    found = compile_static(path, {"x": x.shape})({"x": x})[0]
    np.testing.assert_allclose(found, before, rtol=1e-3, atol=1e-3)


def test_weights_outside_the_graph_are_laid_out_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph()
    x = np.random.default_rng(1).standard_normal((2, TOKENS, CHANNELS)).astype(np.float32)
    before = run(model, x)
    path = rewrite_outside(model, LinearsAsConvolutions(), tmp_path, monkeypatch)
    np.testing.assert_allclose(run(path, x), before, rtol=1e-4, atol=1e-5)


def test_other_linears_are_left_alone() -> None:
    assert rewrite(graph(rank=4), LinearsAsConvolutions()) == 0
    wide = graph()
    for tensor in wide.graph.initializer:
        if tensor.name.endswith("codes"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.uint8), tensor.name))
    assert rewrite(wide, LinearsAsConvolutions()) == 0


def test_every_site_of_a_model_stays_int8(small: Built, tmp_path: Path) -> None:
    bundle = OnnxBundle.load(small.onnx_int8)
    for part in bundle.parts:
        path = tmp_path / part.file
        shutil.copy(bundle.open(part), path)
        model = onnx.load(str(path))
        linears = sum(site.quantized and site.kind == "linear" for site in part.sites)
        convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
        rewrite(model, LinearsAsConvolutions())
        assert sum(node.op_type == "Conv" for node in model.graph.node) == convolutions + linears
        onnx.save(model, str(path))
        coverage = measure(part, *openvino_layers(compile_static(path, part.shapes((128, 128)))))
        assert not coverage.float_sites and coverage.sites_int8 == coverage.sites_quantized


@pytest.mark.slow
@pytest.mark.parametrize("faster", [False, True])
def test_the_cpu_chooses_and_the_key_says_it(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    monkeypatch.setattr(openvino_builder, "linears_faster_as_convolutions", lambda: faster)
    words = ["build-engines", str(small.onnx_int8), "-o", str(tmp_path)]
    assert main(words) == 0, "and the engines are proved against ONNX Runtime"
    engines = EngineBundle.load(tmp_path)
    assert engines.key["convolutions"] == str(faster)
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "unet.onnx")).graph.node if ".to_q" in node.name}
    assert ("Conv" in kinds) == faster and ("MatMul" in kinds) != faster
