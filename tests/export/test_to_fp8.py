"""An INT8 calibration becomes FP8's: which scales, which shifts, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.proof import relative_error
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.grids import FP8_CODES, INT8_CODES
from passionsr_trt.export.quantize.to_format import to_format
from passionsr_trt.export.quantize.to_fp8 import HEADROOM
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant
from torch import nn

from tests.helpers import applied, faked, lone_part

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
    ports = {
        "body.0": PortQuant(moved.abs().max() * 0.8 / 127, let=Let(s, centre)),
        "body.2": PortQuant(inner.abs().max() * 0.8 / 127),
    }
    rows = {}
    for named in sites:
        weight = named.site.weight.data
        if named.name == "body.0":
            weight = weight * s.reshape(1, -1, 1, 1)
        offsets = torch.zeros(-(-weight.numel() // 4), dtype=torch.uint8) + 0b01010101
        rows[named.name] = SiteQuant(weight.flatten(1).abs().amax(1) * 0.9 / 127, offsets)
    spec = QuantSpec(min_channels=1, keep_first_last=False)
    return Calibration("model", spec, "data", PartQuant(ports, rows))


def test_int8_is_left_as_it_is() -> None:
    given = calibration()
    assert to_format(given, [part()], INT8_CODES) is given


def test_no_shift_no_offsets_and_the_same_sites_and_channel_scales() -> None:
    given, found = calibration(), to_format(calibration(), [part()], FP8_CODES)
    assert all(row == SiteQuant(row.scale) for row in found.quant.sites.values()), "nothing but scales"
    before, after = given.quant.ports["body.0"].let, found.quant.ports["body.0"].let
    assert before is not None and after is not None
    assert not after.shift.any() and before.shift.any() and torch.equal(after.scale, before.scale)
    assert found.quant.sites.keys() == given.quant.sites.keys()
    assert found.quant.ports.keys() == given.quant.ports.keys()
    assert found.spec == given.spec and found.quant.grid.codes == FP8_CODES


@pytest.mark.parametrize("zero_point", [0, 115])
@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0])
def test_the_boundary_covers_what_the_port_sees_without_its_shift(shift: float, zero_point: int) -> None:
    given = calibration(shift)
    first = replace(given.quant.ports["body.0"], zero_point=zero_point)
    given = replace(given, quant=replace(given.quant, ports={**given.quant.ports, "body.0": first}))
    found = to_format(given, [part()], FP8_CODES).quant.ports["body.0"]
    let, total = first.let, first.shift()
    assert let is not None and total is not None and not found.zero_point
    boundary = found.scale * FP8_CODES.high
    assert (picture() / let.scale.reshape(1, -1, 1, 1)).abs().max() <= boundary
    moved = (total / let.scale).abs().max()
    assert boundary == pytest.approx(float(first.scale * 127 * HEADROOM + moved))


def test_the_part_then_computes_in_fp8_with_its_float_result_unchanged() -> None:
    tensors = {"image": picture()}
    original = part().run(tensors)
    quantized = part()
    quant = applied(to_format(calibration(), [quantized], FP8_CODES), quantized, tensors)
    assert len(quant.sites) == 2 and relative_error(original, quantized.run(tensors)) < 1e-5
    first = quantized.sites()[0].site
    assert first.port.offset is None and not first.port.pads, "no shift: no Add, no Pad"
    with faked(quantized, quant):
        error = relative_error(original, quantized.run(tensors))
    assert 1e-3 < error < 2**-4, "two layers of 3-bit mantissas"
    shifted = part()
    applied(calibration(), shifted, tensors)
    assert shifted.sites()[0].site.port.offset is not None, "as INT8 it has one"


@pytest.mark.parametrize("bits", [{"bits_weights": 6}, {"bits_activations": 4}])
def test_a_calibration_of_fewer_bits_is_refused(bits: dict[str, int]) -> None:
    given = calibration()
    with pytest.raises(UserError, match=r"--format fp8 with a calibration of W\dA\d; expected one of 8 bits"):
        to_format(replace(given, spec=replace(given.spec, **bits)), [part()], FP8_CODES)


def test_half_range_boundaries_come_from_their_own_codes() -> None:
    """±63 limits weights alone, which FP8 scales by the weights: nothing of it is left."""
    given = calibration()
    limited = replace(given, spec=replace(given.spec, weight_code_limit=63))
    one, other = (to_format(each, [part()], FP8_CODES).quant for each in (given, limited))
    assert one == other


def test_what_is_kept_on_disk_is_int8(tmp_path: Path) -> None:
    given = calibration()
    given.save(tmp_path / "kept")
    assert Calibration.load(tmp_path / "kept").quant.grid.codes == INT8_CODES
