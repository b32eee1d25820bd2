"""An INT8 calibration becomes one of weights alone: its codes and LET, no codes of activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model import hooks
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
    assert found.quant.ports["body.0"] == given.quant.ports["body.0"], "LET is what the codes are for"


def test_gains_and_biases_that_make_up_for_activations_go() -> None:
    given = calibration(shift=0.0)
    learned = {
        name: replace(row, gain=torch.full_like(row.scale, 1.01), bias=torch.ones_like(row.scale))
        for name, row in given.quant.sites.items()
    }
    found = to_format(replace(given, quant=replace(given.quant, sites=learned)), [part()], W8_CODES)
    assert all(row.gain is None and row.bias is None for row in found.quant.sites.values())


@pytest.mark.parametrize("zero_point", [0, 40])
def test_a_part_gives_what_the_calibration_s_weights_do_with_float_activations(zero_point: int) -> None:
    """At the borders, too, where convolutions pad."""
    tensors, given = {"image": picture()}, calibration()
    weights, plain = part(), part()
    attached = fake_quantizers(weights, applied(given, weights, tensors))
    with hooks.attached({module: made for module, made in attached.items() if isinstance(module, Site)}):
        expected = weights.run(tensors)
    first = replace(given.quant.ports["body.0"], zero_point=zero_point)
    given = replace(given, quant=replace(given.quant, ports={**given.quant.ports, "body.0": first}))
    quant = applied(to_format(given, [plain], W8_CODES), plain, tensors)
    with faked(plain, quant):
        assert relative_error(expected, plain.run(tensors)) < 1e-5


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
