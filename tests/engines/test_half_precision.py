"""Half precision and bfloat16 on a CPU: rounded as a GPU does it, or as large as numbers want to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.graph.half_precision import (
    BFLOAT16,
    HALF,
    computes_in_half,
    half_tensors,
    in_float32,
    types_of,
    with_largest,
)
from passionsr_trt.engines.graph.reference import reference_session

VALUES = st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20)


def graph(kind: int, factor: float = 3.0) -> onnx.ModelProto:
    """x → Cast → Mul factor → Relu → Add x → Cast → y, in a half-precision type."""
    bits = np.array([factor], np.float32)
    constant = helper.make_tensor("factor", kind, [1], bits.tolist())
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="in", to=kind),
        helper.make_node("Mul", ["h", "factor"], ["scaled"], name="mul"),
        helper.make_node("Relu", ["scaled"], ["positive"], name="relu"),
        helper.make_node("Add", ["positive", "h"], ["sum"], name="add"),
        helper.make_node("Cast", ["sum"], ["y"], name="out", to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], [constant])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[Any]:
    return reference_session(model, threads=1).run(None, {"x": x})


def rounded(x: np.ndarray) -> np.ndarray:
    """float32 to the nearest bfloat16, of two the even one."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@settings(deadline=None, max_examples=30)
@given(VALUES)
def test_a_bfloat16_graph_rounds_behind_every_operation(values: list[float]) -> None:
    x = np.array(values, np.float32)
    h = rounded(x)
    expected = rounded(np.maximum(rounded(h * np.float32(3)), 0) + h)
    np.testing.assert_array_equal(run(graph(BFLOAT16), x)[0], expected)


def test_half_precision_overflows_where_it_is_rounded_and_not_where_it_is_not() -> None:
    model, x = graph(HALF, 1000.0), np.array([1.0, 70.0, -70.0], np.float32)
    assert run(in_float32(model), x)[0].tolist() == [1001.0, np.inf, -70.0]
    assert run(in_float32(model, rounded=False), x)[0].tolist() == [1001.0, 70070.0, -70.0]


def test_how_far_each_tensor_reaches() -> None:
    model = graph(HALF, 1000.0)
    names = half_tensors(model)
    assert names == ["h", "scaled", "positive", "sum"]
    widened = with_largest(in_float32(model, rounded=False), names)
    _y, *most = run(widened, np.array([1.0, -70.0], np.float32))
    assert [float(value) for value in most] == [70.0, 70000.0, 1000.0, 1001.0]


def test_a_given_graph_is_left_as_it_is_and_its_twin_computes_in_float32() -> None:
    for kind in (HALF, BFLOAT16):
        model = graph(kind)
        before, twin = model.SerializeToString(), in_float32(model)
        assert computes_in_half(model) and not computes_in_half(twin)
        assert model.SerializeToString() == before


def test_types_are_inferred_where_a_graph_does_not_state_them() -> None:
    types = types_of(graph(BFLOAT16))
    assert {name for name, kind in types.items() if kind == BFLOAT16} == {
        "factor",
        "h",
        "scaled",
        "positive",
        "sum",
    }


@pytest.mark.parametrize("kind", [HALF, BFLOAT16])
def test_weights_in_codes_are_dequantized_in_float32_and_rounded(kind: int) -> None:
    """0.1 is neither type's; the weight is what 100 · 0.1 is in the type, times an exact 1."""
    tensors = [
        numpy_helper.from_array(np.full((1, 1), 100, np.int8), "codes"),
        helper.make_tensor("scale", kind, [1], [0.1]),
        numpy_helper.from_array(np.zeros(1, np.int8), "zero"),
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=kind),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], axis=1),
        helper.make_node("MatMul", ["h", "w"], ["product"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    found = run(in_float32(model), np.ones((1, 1), np.float32))[0]
    step = np.float32(np.float16(0.1)) if kind == HALF else rounded(np.array([0.1], np.float32))[0]
    product = np.float32(100) * step
    assert found == (np.float16(product) if kind == HALF else rounded(np.array([product]))[0])
