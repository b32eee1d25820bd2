"""Quantization as a value: compared by content, printable, and in a calibration's file what it was."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.quantize.calibration import quant_of, tensors_of
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant, pack_offsets

NUMBERS = st.floats(0.125, 8, width=32)
VECTORS = st.lists(NUMBERS, min_size=1, max_size=5).map(torch.tensor)
LETS = st.builds(
    lambda scale, shift: Let(scale, torch.full_like(scale, shift)), VECTORS, st.floats(-1, 1, width=32)
)
PORTS = st.builds(PortQuant, NUMBERS.map(torch.tensor), st.integers(0, 128), st.none() | LETS)
OFFSETS = st.lists(st.integers(-1, 1), min_size=1, max_size=9).map(
    lambda values: pack_offsets(torch.tensor(values))
)
SITES = st.builds(SiteQuant, VECTORS, st.none() | OFFSETS, st.none() | VECTORS, st.none() | VECTORS)
NAMES = st.sampled_from(["unet.conv_in", "unet.mid.conv", "vae.conv"])
QUANTS = st.builds(PartQuant, st.dictionaries(NAMES, PORTS), st.dictionaries(NAMES, SITES))


def example() -> PartQuant:
    let = Let(torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1.0]))
    port = PortQuant(torch.tensor(0.25), zero_point=3, let=let)
    return PartQuant({"p.a": port}, {"p.a": SiteQuant(torch.tensor([0.5, 1.0]), gain=torch.tensor([1.0, 1.5]))})


@settings(deadline=None)
@given(QUANTS)
def test_what_is_read_is_what_was_written(quant: PartQuant) -> None:
    assert quant_of(tensors_of(quant)) == quant


@settings(deadline=None)
@given(QUANTS, QUANTS)
def test_equal_means_equal_in_every_tensor(one: PartQuant, other: PartQuant) -> None:
    assert one == one.map(torch.clone)
    tensors, others = tensors_of(one), tensors_of(other)
    same = tensors.keys() == others.keys() and all(torch.equal(x, others[name]) for name, x in tensors.items())
    assert (one == other) == same


def test_a_value_is_frozen_and_prints_what_it_holds() -> None:
    quant = example()
    with pytest.raises(FrozenInstanceError):
        quant.sites["p.a"].scale = torch.ones(2)  # type: ignore[misc]
    printed = repr(quant)
    assert "p.a: PortQuant(scale=0.25, zero_point=3, let=Let(scale=[2] 0.5 … 2" in printed
    assert "SiteQuant(scale=[2] 0.5 … 1, gain=[2] 1 … 1.5)" in printed


def test_a_zero_point_shifts_with_the_channel_s_scale() -> None:
    """s·a·Δ beside LET's own shift."""
    shift = example().ports["p.a"].shift()
    assert shift is not None and shift.tolist() == [0.5 * 3 * 0.25, 1.0 + 2.0 * 3 * 0.25]


def test_rows_are_dropped_and_added() -> None:
    quant = example()
    other = PartQuant({"p.b": PortQuant(torch.tensor(1.0))})
    assert (quant | other).without(["p.a"]) == other and (quant | other).without(["p.b"]) == quant


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("activation_scale", "the row of port p.a is incomplete"),
        ("let_shift", "the row of port p.a is incomplete"),
        ("weight_scale", "the row of site p.a is incomplete"),
    ],
)
def test_a_row_that_is_incomplete_is_named(missing: str, message: str) -> None:
    tensors = tensors_of(example())
    del tensors[f"p.a.{missing}"]
    with pytest.raises(UserError, match=message):
        quant_of(tensors)


def test_a_tensor_of_another_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown tensor 'p.a.weight_turns'; expected activation_scale, .*gain"):
        quant_of({**tensors_of(example()), "p.a.weight_turns": torch.ones(1)})


def test_a_value_moves_whole() -> None:
    moved = example().on(torch.device("meta"))
    assert all(x.device.type == "meta" for x in (moved.ports["p.a"].scale, moved.sites["p.a"].scale))
    assert moved.ports["p.a"].zero_point == 3 and replace(moved, grid=moved.grid).grid == example().grid
