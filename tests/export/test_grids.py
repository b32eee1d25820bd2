"""The pure quantizer: properties of the grid."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.export.quantize.grids import fake_quantize, quantize, weight_codes

BITS = st.sampled_from([4, 6, 8])
SCALES = st.floats(1e-3, 10.0).map(torch.tensor)
VALUES = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50).map(torch.tensor)


def limits(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


@settings(deadline=None)
@given(VALUES, SCALES, BITS)
def test_codes_are_whole_and_in_range(x: torch.Tensor, scale: torch.Tensor, bits: int) -> None:
    codes = quantize(x, scale, *limits(bits))
    assert torch.equal(codes, codes.round())
    assert codes.min() >= limits(bits)[0] and codes.max() <= limits(bits)[1]


@settings(deadline=None)
@given(VALUES, SCALES, BITS)
def test_quantizing_twice_changes_nothing(x: torch.Tensor, scale: torch.Tensor, bits: int) -> None:
    once = fake_quantize(x, scale, *limits(bits))
    assert torch.equal(quantize(once, scale, *limits(bits)), quantize(x, scale, *limits(bits)))


@settings(deadline=None)
@given(VALUES, SCALES, BITS)
def test_order_is_kept(x: torch.Tensor, scale: torch.Tensor, bits: int) -> None:
    ordered = fake_quantize(x.sort().values, scale, *limits(bits))
    assert torch.all(ordered.diff() >= 0)


@settings(deadline=None)
@given(VALUES, SCALES, BITS)
def test_inside_the_boundary_the_error_is_at_most_half_a_step(
    x: torch.Tensor, scale: torch.Tensor, bits: int
) -> None:
    low, high = limits(bits)
    inside = x.clamp(low * scale, high * scale)
    error = (fake_quantize(inside, scale, low, high) - inside).abs()
    assert torch.all(error <= scale / 2 * (1 + 1e-3) + 1e-5)


def test_weight_codes_keep_the_limit_and_use_their_own_channel_scale() -> None:
    weight = torch.tensor([[1.0, -1.0], [100.0, 50.0]])
    codes = weight_codes(weight, torch.tensor([1 / 63, 100 / 63]), 63)
    assert codes.dtype is torch.int8
    assert codes.tolist() == [[63, -63], [63, 32]]  # 31.5 rounds to the even 32
