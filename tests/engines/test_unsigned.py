"""Shifted ports in OpenVINO: zero points, the convolution's own padding, the same sums on INT8 kernels."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino.passes.unsigned import ShiftsAsUnsignedCodes, SignedAsUnsignedCodes

from tests.engines.rewriting import rewrite

pytestmark = pytest.mark.kernels

SHAPE = (1, 16, 9, 11)
STEP = np.float32(0.02)


def graph(
    shift: float, scaled: bool = False, clip: tuple[int, int] | None = None, padded: bool = True
) -> onnx.ModelProto:
    """x → ReLU → Pad → (Mul) → Add −a·Δ → (Clip) → Q → DQ → Conv 3×3, as a port with a zero point is exported."""
    random = np.random.default_rng(0)
    constants = {
        "step": STEP,
        "zero": np.int8(0),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "filling": np.float32(0),
        "multiplier": random.uniform(0.5, 2, (1, 16, 1, 1)).astype(np.float32),
        "offset": np.full((1, 16, 1, 1), -shift * STEP, np.float32),
        "codes": random.integers(-63, 64, (8, 16, 3, 3)).astype(np.int8),
        "scales": random.uniform(1e-3, 2e-3, 8).astype(np.float32),
        "zeros": np.zeros(8, np.int8),
        "bias": random.normal(size=8).astype(np.float32),
    }
    nodes = [helper.make_node("Relu", ["x"], ["above"])]

    def then(kind: str, *more: str) -> None:
        nodes.append(helper.make_node(kind, [nodes[-1].output[0], *more], [f"{kind}/out"], name=kind))

    if padded:
        then("Pad", "pads", "filling")
    if scaled:
        then("Mul", "multiplier")
    then("Add", "offset")
    if clip is not None:
        constants |= {"low": np.float32(clip[0] * STEP), "high": np.float32(clip[1] * STEP)}
        then("Clip", "low", "high")
    then("QuantizeLinear", "step", "zero")
    then("DequantizeLinear", "step", "zero")
    found = nodes[-1].output[0]
    nodes.append(helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["weight"], axis=0))
    attributes = {"kernel_shape": [3, 3]} if padded else {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes.append(helper.make_node("Conv", [found, "weight", "bias"], ["out"], "site", **attributes))
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8, 9, 11])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "shifted", values, outputs, tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).normal(0, 2, SHAPE).astype(np.float32)
    result: np.ndarray = reference_session(model).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("shift", "clip"), [(128, None), (100, None), (32, (-32, 31)), (25, (-32, 31))])
def test_the_sums_are_the_same_borders_included(shift: int, clip: tuple[int, int] | None, scaled: bool) -> None:
    model = graph(shift, scaled, clip)
    before = run(model)
    assert rewrite(model, ShiftsAsUnsignedCodes()) == 1
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=2e-5)
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Pad", "Add"} and "offset" not in {tensor.name for tensor in model.graph.initializer}
    zero = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("unsigned_zero"))
    assert zero.data_type == TensorProto.UINT8 and int(numpy_helper.to_array(zero)) == 128 - shift
    assert rewrite(model, ShiftsAsUnsignedCodes()) == 0, "nothing is left to do a second time"


def test_openvino_runs_it_on_an_int8_kernel() -> None:
    ov = pytest.importorskip("openvino")
    model = graph(128, scaled=True)
    before = run(model)
    rewrite(model, ShiftsAsUnsignedCodes())
    core = ov.Core()
    content = core.read_model(model.SerializeToString(), b"")
    compiled = core.compile_model(content, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = np.random.default_rng(1).normal(0, 2, SHAPE).astype(np.float32)
    np.testing.assert_allclose(compiled([x])[0], before, rtol=1e-4, atol=1e-4)
    layers = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    found = {info["runtimePrecision"].value for info in layers if info["layerType"].value == "Convolution"}
    assert found == {"u8"}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(graph(99.5), id="no whole code"),
        pytest.param(graph(-3), id="the other way"),
        pytest.param(graph(128, clip=(-32, 31)), id="the padding would be clipped"),
        pytest.param(graph(128, padded=False), id="padded with codes already"),
    ],
)
def test_other_shifts_are_left_alone(model: onnx.ModelProto) -> None:
    assert rewrite(model, ShiftsAsUnsignedCodes()) == 0


def test_a_tensor_that_others_read_keeps_its_shift() -> None:
    model = graph(128)
    model.graph.node.append(helper.make_node("Identity", ["DequantizeLinear/out"], ["seen"]))
    assert rewrite(model, ShiftsAsUnsignedCodes()) == 0


def test_signed_codes_are_changed_behind_the_shifts_alone() -> None:
    """Its zero point of int8 is what a shift is known by."""
    with pytest.raises(ir.passes.PreconditionError, match="a shift is left"):
        SignedAsUnsignedCodes()(ir.from_proto(graph(128)))
