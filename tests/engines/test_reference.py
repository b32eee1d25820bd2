"""The reference executor computes what a graph says, on every CPU and with half-precision scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.reference import reference_session

pytestmark = pytest.mark.kernels

TOKENS, INNER, OUTER = 16, 256, 32


def product(kind: str) -> onnx.ModelProto:
    """x → Q → DQ → MatMul or 1×1 Conv with full-range INT8 weights, all scales 1."""
    shape = (INNER, OUTER) if kind == "MatMul" else (OUTER, INNER, 1, 1)
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "weight": np.full(shape, 127, np.int8),
        "ones": np.ones(OUTER, np.float32),
        "zeros": np.zeros(OUTER, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "one", "zero"], ["values"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "ones", "zeros"], ["w"], axis=1 if kind == "MatMul" else 0
        ),
        helper.make_node(kind, ["values", "w"], ["y"]),
    ]
    size = [1, TOKENS, INNER] if kind == "MatMul" else [1, INNER, 4, 4]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
def test_full_range_codes_do_not_saturate(kind: str) -> None:
    """ONNX Runtime's own INT8 MatMul does so on CPUs without VNNI: 16 bits hold no 2·127·127."""
    model = product(kind)
    x = np.full([size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim], 127, np.float32)
    result = reference_session(model).run(None, {"x": x})[0]
    assert np.array_equal(result, np.full_like(result, 127 * 127 * INNER))


def test_no_quantized_kernel_is_left_in_its_graph(tmp_path: Path) -> None:
    """Whatever the CPU: the option that keeps Q/DQ apart is understood by this ONNX Runtime."""
    session = reference_session(product("MatMul"))
    assert session.get_session_options().get_session_config_entry("session.disable_quant_qdq") == "1"
    profiled = tmp_path / "run"
    options = session.get_session_options()
    options.enable_profiling, options.profile_file_prefix = True, str(profiled)
    import onnxruntime

    again = onnxruntime.InferenceSession(
        product("MatMul").SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    again.run(None, {"x": np.zeros((1, TOKENS, INNER), np.float32)})
    ran = Path(again.end_profiling()).read_text(encoding="utf-8")
    assert '"MatMul"' in ran and "MatMulInteger" not in ran and "QGemm" not in ran


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    model = product("MatMul")
    model.graph.node[3].op_type = "NoSuchOperation"
    onnx.save(model, str(tmp_path / "g.onnx"))
    with pytest.raises(UserError, match=r"g\.onnx: ONNX Runtime cannot load it"):
        reference_session(tmp_path / "g.onnx")


def test_weights_outside_a_graph_in_memory_are_read_from_its_folder(tmp_path: Path) -> None:
    model, x = product("Conv"), np.ones((1, INNER, 4, 4), np.float32)
    expected = reference_session(model).run(None, {"x": x})[0]
    path = tmp_path / "g.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="g.data", size_threshold=256)
    outside = onnx.load(str(path), load_external_data=False)
    assert any(tensor.external_data for tensor in outside.graph.initializer)
    assert np.array_equal(reference_session(outside, folder=tmp_path).run(None, {"x": x})[0], expected)
