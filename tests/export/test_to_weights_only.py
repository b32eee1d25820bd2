"""An INT8 calibration becomes one of weights alone: its codes, no shifts, no activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.proof import relative_error
from passionsr_trt.export.model.sites import Port, Site
from passionsr_trt.export.quantize.grids import INT8_CODES, W8_CODES, W8_FP8_CODES, weight_codes
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from passionsr_trt.export.quantize.to_format import to_format
from passionsr_trt.export.quantize.to_fp8 import row_scales
from passionsr_trt.export.quantize.values import SiteQuant

from tests.export.test_to_fp8 import calibration, part, picture
from tests.helpers import applied, faked


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_the_codes_are_the_calibration_s() -> None:
    given, own = calibration(), part()
    found = to_format(given, [own], W8_CODES)
    assert found.spec == given.spec and found.quant.grid.codes == W8_CODES
    for name, row in found.quant.sites.items():
        before = given.quant.sites[name]
        assert torch.equal(row.scale, before.scale) and torch.equal(row.offsets, before.offsets)  # type: ignore[arg-type]
    let, before = found.quant.ports["body.0"].let, given.quant.ports["body.0"].let
    assert let is not None and before is not None
    assert torch.equal(let.scale, before.scale) and before.shift.any() and not let.shift.any()


def test_gains_and_biases_that_make_up_for_activations_go() -> None:
    given = calibration(shift=0.0)
    learned = {
        name: replace(row, gain=torch.full_like(row.scale, 1.01), bias=torch.ones_like(row.scale))
        for name, row in given.quant.sites.items()
    }
    found = to_format(replace(given, quant=replace(given.quant, sites=learned)), [part()], W8_CODES)
    assert all(row.gain is None and row.bias is None for row in found.quant.sites.values())


def test_without_its_shift_a_site_gives_what_it_gave_with_it() -> None:
    """Inside; where a convolution pads, some of the rounded weights meet zeros."""
    tensors, given = {"image": picture()}, calibration()
    shifted, plain = part(), part()
    with_shift = applied(given, shifted, tensors)
    weights = {
        module: made for module, made in fake_quantizers(shifted, with_shift).items() if isinstance(module, Site)
    }
    first = shifted.sites()[0].site
    first.quantizer, expected = weights[first], None
    expected = shifted.module[:1](picture())  # type: ignore[index]
    quant = applied(to_format(given, [plain], W8_CODES), plain, tensors)
    assert plain.sites()[0].site.port.offset is None and not plain.sites()[0].site.port.pads, "no Add, no Pad"
    with faked(plain, quant):
        found = plain.module[:1](picture())  # type: ignore[index]
    inside = (..., slice(1, -1), slice(1, -1))
    assert relative_error(expected[inside], found[inside]) < 1e-5
    assert relative_error(expected, found) < 0.02


def test_ports_compute_in_float() -> None:
    own = part()
    quant = applied(to_format(calibration(), [own], W8_CODES), own, {"image": picture()})
    attached = fake_quantizers(own, quant)
    assert len(attached) == 2 and not any(isinstance(module, Port) for module in attached)
    float_result = part().run({"image": picture()})
    with faked(own, quant):
        alone = relative_error(float_result, own.run({"image": picture()}))
    int8 = part()
    with faked(int8, applied(calibration(), int8, {"image": picture()})):
        both = relative_error(float_result, int8.run({"image": picture()}))
    assert 0 < alone < both


def test_fp8_takes_the_weights_as_they_are() -> None:
    own = part()
    found = to_format(calibration(), [own], W8_FP8_CODES)
    assert all(port.let is None for port in found.quant.ports.values())
    for named in own.sites():
        weight = named.site.weight.data
        scales = row_scales(weight, W8_FP8_CODES)
        assert found.quant.sites[named.name] == SiteQuant(scales)
        codes = weight_codes(weight, scales, 448, codes=W8_FP8_CODES).float()
        assert relative_error(weight, codes * scales.reshape(-1, 1, 1, 1)) < 2**-4


def test_fewer_bits_of_activations_are_no_matter_and_of_weights_refused() -> None:
    given = calibration()
    assert to_format(replace(given, spec=replace(given.spec, bits_activations=4)), [part()], W8_CODES)
    with pytest.raises(UserError, match="--format w8 with a calibration of W6A8; expected one of 8 bits"):
        to_format(replace(given, spec=replace(given.spec, bits_weights=6)), [part()], W8_CODES)


def test_half_range_weights_keep_their_codes() -> None:
    given = calibration()
    limited = replace(given, spec=replace(given.spec, weight_code_limit=63))
    assert to_format(limited, [part()], W8_CODES).quant.grid.limit == 63
    assert to_format(limited, [part()], INT8_CODES) is limited
