"""Ranges of codes: what bits and limits allow, how they are written, signed and unsigned ones alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE, SIGNED, TO_UNSIGNED, UNSIGNED, CodeRange
from passionsr_trt.engines.bundle.spec import QuantSpec


@given(bits=st.integers(2, 8))
def test_ranges_are_as_wide_as_their_bits(bits: int) -> None:
    low, high = CodeRange.of_bits(bits)
    assert high - low + 1 == 2**bits and CodeRange.within(high) == (-high, high) == (low + 1, high)


def test_they_are_numpy_s_own_at_8_bits() -> None:
    for found, kind in ((SIGNED, np.int8), (UNSIGNED, np.uint8)):
        assert found == (np.iinfo(kind).min, np.iinfo(kind).max)
    assert [code + TO_UNSIGNED for code in SIGNED] == [*UNSIGNED]
    assert (str(HALF_RANGE), str(FULL_RANGE), str(SIGNED)) == ("±63", "±127", "-128 to 127")


@pytest.mark.parametrize(
    ("bits", "limit", "weights", "activations"),
    [(8, 127, 127, 127), (8, 63, 63, 127), (6, 127, 31, 31), (6, 63, 31, 31), (4, 127, 7, 7)],
)
def test_a_spec_states_its_ranges(bits: int, limit: int, weights: int, activations: int) -> None:
    spec = QuantSpec(bits_weights=bits, bits_activations=bits, weight_code_limit=limit)
    assert spec.weight_codes == (-weights, weights) and spec.activation_codes == (-activations - 1, activations)
