"""An INT8 calibration becomes FP8's: which scales, which shifts, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.formats import FP8, INT8
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.part import Part
from passionsr_trt.export.quantize.proof import relative_error
from passionsr_trt.export.quantize.recast import HEADROOM, recast
from passionsr_trt.export.quantize.sites import SiteConv
from torch import nn

from tests.helpers import lone_part

CHANNELS = 16


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def picture() -> torch.Tensor:
    """[1, C, 12, 12], whose channels lie at different distances from 0."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, CHANNELS, 12, 12, generator=generator)
    return noise + torch.linspace(-4, 9, CHANNELS).reshape(1, -1, 1, 1)


def part() -> Part:
    torch.manual_seed(0)
    layers = nn.Sequential(
        SiteConv(torch.randn(8, CHANNELS, 3, 3), torch.randn(8), pads=1),
        nn.SiLU(),
        SiteConv(torch.randn(8, 8, 1, 1), None),
    )
    return lone_part("body", layers, CHANNELS)


def calibration(shift: float = 1.0) -> Calibration:
    """Learned, as it were: per channel s and δ at the first port, boundaries that clip a little at both."""
    x, first = picture(), part()
    centre = x.mean(dim=(0, 2, 3)) * shift
    s = torch.linspace(0.5, 2.0, CHANNELS)
    sites = first.sites()
    moved = (x - centre.reshape(1, -1, 1, 1)) / s.reshape(1, -1, 1, 1)
    inner = first.module[:2](x)  # type: ignore[index]
    tensors = {
        "body.0.activation_scale": moved.abs().max() * 0.8 / 127,
        "body.0.let_scale": s,
        "body.0.let_shift": centre,
        "body.2.activation_scale": inner.abs().max() * 0.8 / 127,
    }
    for named in sites:
        weight = named.site.weight.data
        if named.name == "body.0":
            weight = weight * s.reshape(1, -1, 1, 1)
        tensors[f"{named.name}.weight_scale"] = weight.flatten(1).abs().amax(1) * 0.9 / 127
        turns = torch.zeros(-(-weight.numel() // 4), dtype=torch.uint8) + 0b01010101
        tensors[f"{named.name}.weight_turns"] = turns
    return Calibration("model", QuantSpec(min_channels=1, keep_first_last=False), "data", tensors)


def test_int8_is_left_as_it_is() -> None:
    given = calibration()
    assert recast(given, [part()], INT8) is given


def test_no_shift_no_turns_and_the_same_sites_and_channel_scales() -> None:
    given = calibration()
    found = recast(given, [part()], FP8)
    assert not any(key.endswith("weight_turns") for key in found.tensors)
    assert not found.tensors["body.0.let_shift"].any() and given.tensors["body.0.let_shift"].any()
    assert torch.equal(found.tensors["body.0.let_scale"], given.tensors["body.0.let_scale"])
    scales = {key for key in given.tensors if key.endswith("_scale")}
    assert scales == {key for key in found.tensors if key.endswith("_scale")}
    assert found.spec == given.spec and found.codes == FP8


@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0])
def test_the_boundary_covers_what_the_port_sees_without_its_shift(shift: float) -> None:
    given = calibration(shift)
    found = recast(given, [part()], FP8)
    s = given.tensors["body.0.let_scale"].reshape(1, -1, 1, 1)
    boundary = found.tensors["body.0.activation_scale"] * FP8.high
    assert (picture() / s).abs().max() <= boundary
    learned = given.tensors["body.0.activation_scale"] * 127
    moved = (given.tensors["body.0.let_shift"] / given.tensors["body.0.let_scale"]).abs().max()
    assert boundary == pytest.approx(float(learned * HEADROOM + moved))


def test_the_part_then_computes_in_fp8_with_its_float_result_unchanged() -> None:
    tensors = {"image": picture()}
    original = part().run(tensors)
    quantized = part()
    assert recast(calibration(), [quantized], FP8).apply(quantized, tensors) == 2
    assert relative_error(original, quantized.run(tensors)) < 1e-5
    first, last = (named.site for named in quantized.sites())
    assert first.port.codes == first.codes == last.codes == FP8
    assert first.port.offset is None and not first.port.pads, "no shift: no Add, no Pad"
    with quantized.mode(Mode.FAKE):
        error = relative_error(original, quantized.run(tensors))
    assert 1e-3 < error < 2**-4, "two layers of 3-bit mantissas"
    shifted = part()
    calibration().apply(shifted, tensors)
    assert shifted.sites()[0].site.port.offset is not None, "as INT8 it has one"


@pytest.mark.parametrize("bits", [{"bits_weights": 6}, {"bits_activations": 4}])
def test_a_calibration_of_fewer_bits_is_refused(bits: dict[str, int]) -> None:
    given = calibration()
    with pytest.raises(UserError, match=r"--format fp8 with a calibration of W\dA\d; expected one of 8 bits"):
        recast(replace(given, spec=replace(given.spec, **bits)), [part()], FP8)


def test_half_range_boundaries_come_from_their_own_codes() -> None:
    """±63 limits weights alone, which FP8 scales by the weights: nothing of it is left."""
    given = calibration()
    limited = replace(given, spec=replace(given.spec, weight_code_limit=63))
    one, other = (recast(each, [part()], FP8).tensors for each in (given, limited))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_kept_on_disk_is_int8(tmp_path: Path) -> None:
    given = calibration()
    given.save(tmp_path / "kept")
    assert Calibration.load(tmp_path / "kept").codes == INT8
