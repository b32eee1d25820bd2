"""FP8 codes: PyTorch's, ONNX Runtime's and onnx's own are the same, of every kind of value."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from passionsr_trt.engines.bundle.formats import CODE_FORMATS
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.export.quantize.grids import CODES as CODES_OF
from passionsr_trt.export.quantize.grids import FP8_CODES, INT8_CODES, fake_quantize, quantize
from passionsr_trt.export.quantize.to_fp8 import row_scales

CODES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()  # two of them are no numbers
FINITE = CODES[CODES.isfinite()].unique()  # sorted; ±0 is one
SCALES = st.floats(2**-10, 10.0, width=32).map(torch.tensor)
VALUES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50).map(torch.tensor)


def q_and_dq(relu: bool = False, half: bool = False) -> onnx.ModelProto:
    """x → (ReLU) → QuantizeLinear → DequantizeLinear by an input scale."""
    kind, zero = TensorProto.FLOAT16 if half else TensorProto.FLOAT, np.zeros(1, np.uint8)
    point = helper.make_tensor("zero", CODE_FORMATS["fp8"].onnx_type, [], zero.tobytes(), raw=True)
    nodes = [helper.make_node("Relu", ["x"], ["r"])] if relu else []
    nodes.append(helper.make_node("QuantizeLinear", ["r" if relu else "x", "scale", "zero"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]))
    ends = [helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", ["n"]), ("scale", []))]
    output = helper.make_tensor_value_info("y", kind, ["n"])
    graph = helper.make_graph(nodes, "g", ends, [output], [point])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@cache
def runtime(half: bool = False) -> Any:
    return reference_session(q_and_dq(half=half))


def in_runtime(x: torch.Tensor, scale: torch.Tensor, half: bool = False) -> np.ndarray:
    kind = np.float16 if half else np.float32
    return runtime(half).run(None, {"x": x.numpy().astype(kind), "scale": scale.numpy().astype(kind)})[0]


def in_onnx(x: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """onnx's own reference."""
    return ReferenceEvaluator(q_and_dq()).run(None, {"x": x.numpy(), "scale": scale.numpy()})[0]


def in_torch(x: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    return fake_quantize(x, scale, FP8_CODES.low, FP8_CODES.high, FP8_CODES).numpy()


@pytest.mark.parametrize("scale", [1.0, 0.25, 0.0371])
def test_all_256_codes_stand_for_themselves(scale: float) -> None:
    x, step = CODES * scale, torch.tensor(scale)
    expected = (CODES * step).numpy()
    for found in (in_torch(x, step), in_runtime(x, step), in_onnx(x, step)):
        np.testing.assert_array_equal(found, expected)  # not a number is equal to itself here
    assert len(FINITE) == 253 and FINITE.abs().max() == FP8_CODES.high == -FP8_CODES.low


def test_between_two_codes_the_nearest_is_taken_and_of_two_the_even_one() -> None:
    low, high = FINITE[:-1], FINITE[1:]
    middle, one = (low + high) / 2, torch.tensor(1.0)
    even = torch.where(low.to(torch.float8_e4m3fn).view(torch.uint8) % 2 == 0, low, high)
    for x, expected in (
        (middle, even),
        (torch.nextafter(middle, low), low),
        (torch.nextafter(middle, high), high),
    ):
        for found in (in_torch(x, one), in_runtime(x, one), in_onnx(x, one)):
            np.testing.assert_array_equal(found, expected.numpy())


def test_what_is_too_large_saturates_and_what_is_no_number_stays_none() -> None:
    x = torch.tensor([449.0, 463.9, 464.0, 480.0, 1e30, float("inf"), -449.0, -1e30, float("-inf"), float("nan")])
    expected = [448.0] * 6 + [-448.0] * 3 + [float("nan")]
    for found in (in_torch(x, torch.tensor(1.0)), in_runtime(x, torch.tensor(1.0))):
        np.testing.assert_array_equal(found, expected)


def test_a_relu_in_front_of_the_codes_is_not_left_out() -> None:
    """ONNX Runtime 1.31.1 does so by itself: negative values would come through."""
    session = reference_session(q_and_dq(relu=True))
    feed = {"x": np.linspace(-1, 1, 9, dtype=np.float32), "scale": np.array(1 / 448, np.float32)}
    assert session.run(None, feed)[0].min() == 0


@settings(deadline=None)
@given(VALUES, SCALES)
def test_any_value_is_the_same_in_onnx_runtime(x: torch.Tensor, scale: torch.Tensor) -> None:
    np.testing.assert_array_equal(in_torch(x, scale), in_runtime(x, scale))


@settings(deadline=None)
@given(VALUES, SCALES)
def test_with_a_half_precision_scale_it_is_within_two_thousandths(x: torch.Tensor, scale: torch.Tensor) -> None:
    """The quotient is of both in float32; the product is rounded to 11 bits."""
    x, scale = x.half().float(), scale.half().float()
    found, expected = in_runtime(x, scale, half=True).astype(np.float32), in_torch(x, scale)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)


@settings(deadline=None)
@given(VALUES, SCALES)
def test_fp8_is_relative(x: torch.Tensor, scale: torch.Tensor) -> None:
    """Half a step of 3 bits of mantissa: 2⁻⁴ of the value, or half of the smallest step, 2⁻¹⁰."""
    inside = x.clamp(FP8_CODES.low * scale, FP8_CODES.high * scale)
    error = (fake_quantize(inside, scale, FP8_CODES.low, FP8_CODES.high, FP8_CODES) - inside).abs()
    assert torch.all(error <= torch.maximum(inside.abs() / 16, scale / 1024) * (1 + 1e-5))


@settings(deadline=None)
@given(VALUES, SCALES, st.sampled_from([INT8_CODES, FP8_CODES]))
def test_rounding_keeps_order_and_signs_and_does_nothing_twice(
    x: torch.Tensor, scale: torch.Tensor, codes: Any
) -> None:
    low = -codes.high
    found = quantize(x.sort().values, scale, low, codes.high, codes)
    assert torch.all(found.diff() >= 0)
    assert torch.equal(codes.nearest(found), found)
    assert torch.equal(quantize(-x, scale, low, codes.high, codes), -quantize(x, scale, low, codes.high, codes))


def test_formats_are_the_same_in_both_rooms() -> None:
    assert {name: codes.info for name, codes in CODES_OF.items()} == CODE_FORMATS
    for codes in CODES_OF.values():
        zero = torch.zeros(1).to(codes.dtype).view(torch.uint8).numpy()
        tensor = helper.make_tensor("z", codes.info.onnx_type, [1], zero.tobytes(), raw=True)
        assert numpy_helper.to_array(tensor).astype(np.float32) == 0


@pytest.mark.parametrize("codes", [INT8_CODES, FP8_CODES])
def test_scales_of_rows_hit_them_no_worse_than_their_largest_value_would(codes: Any) -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    scales = row_scales(weight, codes)
    assert torch.all(scales > 0)
    rows = weight.flatten(1)
    plain = rows.abs().amax(1).clamp_min(1e-12) / codes.high

    def errors(found: torch.Tensor) -> torch.Tensor:
        return (fake_quantize(rows, found[:, None], codes.low, codes.high, codes) - rows).square().sum(1)

    assert torch.all(errors(scales) <= errors(plain))
    assert torch.all(rows.abs().amax(1) <= scales * codes.high * (1 + 1e-5)), "nothing is clipped"
    assert errors(scales).sum() < (0.97 if codes is FP8_CODES else 1.001) * errors(plain).sum()
