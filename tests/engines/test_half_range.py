"""Weight codes within ±63: never further from the weights than halving, in range, files of both kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.openvino.compile import compile_static
from passionsr_trt.engines.openvino.half_range import limit_codes, limit_weights, within_limit

from tests.conftest import Built

pytestmark = pytest.mark.kernels


def codes_of(seed: int, shape: tuple[int, ...], top: int = 127) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape)
    return np.rint(values / np.abs(values).max() * top).astype(np.int8)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(1, 1), (4, 16), (3, 5, 3, 3), (2, 1, 1, 1)]),
    limit=st.sampled_from([7, 31, 63]),
)
def test_codes_are_in_range_and_stand_for_nearly_the_same(seed: int, shape: tuple[int, ...], limit: int) -> None:
    codes = codes_of(seed, shape)
    found, k = limit_codes(codes, limit)
    assert found.dtype == np.int8 and np.abs(found.astype(int)).max() <= limit
    assert found.shape == codes.shape and k.shape == shape[:1]
    back = found * k.reshape(-1, *[1] * (len(shape) - 1))
    # a code moves to one of its two neighbours, or is clipped by at most three tenths of the range
    assert np.abs(back - codes).max() <= max(2 * k.max(), 0.3 * 127 + k.max())


def test_the_sums_that_smooth_inputs_see_are_kept_better_than_by_nearest_rounding() -> None:
    codes = codes_of(0, (32, 64, 3, 3))
    found, k = limit_codes(codes, 63)
    exact = codes / k[:, None, None, None]
    nearest = np.clip(np.rint(exact), -63, 63)
    for axes in ((2, 3), (1, 2, 3)):  # kernels, channels
        ours, theirs = (np.abs((exact - kept).sum(axis=axes)).mean() for kept in (found, nearest))
        assert ours < 0.8 * theirs
    assert np.linalg.norm(exact - found) < 1.25 * np.linalg.norm(exact - nearest), "at a small price in each code"


def test_the_layout_in_memory_changes_nothing() -> None:
    """A weight quantized along its second axis comes as a view."""
    codes = np.moveaxis(codes_of(0, (16, 8, 3, 3)), 1, 0)
    for found, expected in zip(limit_codes(codes, 63), limit_codes(np.ascontiguousarray(codes), 63), strict=True):
        assert np.array_equal(found, expected)


def test_what_is_in_range_already_is_not_touched() -> None:
    codes = codes_of(1, (8, 16, 3, 3), top=63)
    found, k = limit_codes(codes, 63)
    assert np.array_equal(found, codes) and (k == 1).all()


def weights(path: Path) -> dict[str, np.ndarray]:
    """Dequantized weights of a graph by name, and its largest code under the name ''."""
    model = onnx.load(str(path))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found, top = {}, 0
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
            codes = np.moveaxis(tensors[node.input[0]], axis, -1)
            found[node.input[0]] = codes * tensors[node.input[1]]
            top = max(top, int(np.abs(codes.astype(int)).max()))
    found[""] = np.array(top)
    return found


@pytest.mark.parametrize("outside", [False, True], ids=["one file", "weights beside"])
def test_a_graph_keeps_its_weights(small: Built, tmp_path: Path, outside: bool) -> None:
    source = small.onnx_int8 / "unet.onnx"
    path = tmp_path / "unet.onnx"
    onnx.save(
        onnx.load(str(source)),
        str(path),
        save_as_external_data=outside,
        location="unet.onnx.data",
        size_threshold=0,
    )
    before = weights(path)
    with within_limit(path, 63) as copy:
        after = weights(copy)
    assert weights(path).keys() == before.keys() and int(before.pop("")) == 127, "the original is left alone"
    assert int(after.pop("")) <= 63
    for name, weight in before.items():
        assert 0 < np.linalg.norm(after[name] - weight) < 0.03 * np.linalg.norm(weight), name
    limit_weights(path, 63)
    assert all(np.array_equal(after[name], kept) for name, kept in weights(path).items() if name)


@pytest.mark.parametrize("limit", [None, 63])
def test_weights_outside_a_graph_compile_to_the_same_result(
    small: Built, tmp_path: Path, limit: int | None
) -> None:
    """They are mapped where they lie: no copy of them, no link to them."""
    inside, outside = small.onnx_int8 / "vae_encoder.onnx", tmp_path / "outside.onnx"
    model = onnx.load(str(inside))
    shapes = {model.graph.input[0].name: (1, 3, 64, 64)}
    onnx.save(model, str(outside), save_as_external_data=True, location="outside.data", size_threshold=256)
    feed = {name: np.random.default_rng(0).random(shape, np.float32) for name, shape in shapes.items()}
    found, expected = (compile_static(path, shapes, limit=limit)(feed)[0] for path in (outside, inside))
    assert np.array_equal(found, expected)


def test_another_shape_than_the_graph_takes_is_one_line(small: Built) -> None:
    with pytest.raises(
        UserError, match=r"vae_encoder\.onnx: image of shape \[1, 4, 64, 64\]; expected \[\?,3,\?,\?\]"
    ):
        compile_static(small.onnx_int8 / "vae_encoder.onnx", {"image": (1, 4, 64, 64)})
