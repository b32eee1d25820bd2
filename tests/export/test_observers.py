"""Observers: exact counts, and boundaries that do what their names say."""

from __future__ import annotations

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.quantize.grids import fake_quantize
from passionsr_trt.export.quantize.observers import Histogram, activation_boundary, weight_scales


def observed(*batches: torch.Tensor) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.observe(batch)
    return histogram


def test_a_growing_range_loses_no_value_and_moves_none_across_zero() -> None:
    batches = [torch.randn(1000) * size for size in (0.1, 1.0, 10.0)]
    histogram = observed(*batches)
    everything = torch.cat(batches)
    assert histogram.counts.sum() == everything.numel()
    assert histogram.counts[:4096].sum() == (everything < 0).sum()
    assert histogram.minimum == float(everything.min()) and histogram.maximum == float(everything.max())


def test_doubling_equals_one_histogram_of_the_final_range() -> None:
    batches = [torch.tensor([0.5, -1.0]), torch.rand(5000) * 8 - 4]
    histogram = observed(*batches)
    direct = torch.histc(torch.cat(batches), 8192, -histogram.limit, histogram.limit)
    assert torch.equal(histogram.counts, direct.double())


def test_minmax_is_the_largest_magnitude() -> None:
    assert activation_boundary(observed(torch.tensor([-3.0, 2.0])), QuantSpec(activation_observer="minmax")) == 3.0


def test_percentile_ignores_the_tail() -> None:
    x = torch.cat([torch.linspace(-1, 1, 100_000), torch.tensor([50.0])])
    boundary = activation_boundary(observed(x), QuantSpec(activation_observer="percentile", percentile=99.9))
    assert 0.95 < boundary < 1.05


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_dobi_is_never_worse_than_minmax(bits: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(50_000) ** 3
    errors = {}
    for observer in ("minmax", "dobi"):
        spec = QuantSpec(bits_activations=bits, activation_observer=observer)
        low, high = spec.activation_codes
        scale = torch.tensor(activation_boundary(observed(x), spec) / high)
        errors[observer] = float((fake_quantize(x, scale, low, high) - x).square().mean())
    assert errors["dobi"] <= errors["minmax"]
    if bits == 4:
        assert errors["dobi"] < 0.5 * errors["minmax"]


@pytest.mark.parametrize("observer", ["minmax", "percentile", "dobi"])
def test_weight_scales_are_positive_per_channel_and_survive_zeros(observer: str) -> None:
    weight = torch.randn(5, 4, 3, 3)
    weight[2] = 0
    scales = weight_scales(weight, QuantSpec(weight_observer=observer))
    assert scales.shape == (5,) and torch.all(scales > 0)


def test_the_code_limit_widens_the_step() -> None:
    weight = torch.randn(5, 4)
    full, half = (weight_scales(weight, QuantSpec(weight_code_limit=limit)) for limit in (127, 63))
    torch.testing.assert_close(half, full * 127 / 63)
