"""Zero points: x = 0 keeps a code, a bit more for what is bounded below, and folded is what was learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.export.calibrate.blocks import Pairs
from passionsr_trt.export.calibrate.compute import ALONE
from passionsr_trt.export.calibrate.learners import LearnedPort, LearnedSite
from passionsr_trt.export.calibrate.steps.correct_bias import CorrectedSite
from passionsr_trt.export.calibrate.steps.search import PortSearch, Shift, add_errors
from passionsr_trt.export.calibrate.trainer import PartTrainer, Saved
from passionsr_trt.export.model.hooks import attached, watching_outputs
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.quantize.fold import fold
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from torch import Tensor, nn

SPEC = QuantSpec(method="learned", min_channels=0, keep_first_last=False, unabsorbed_gain=0.0, pictures="photos")


def part_of(*layers: nn.Module) -> Part:
    image = TensorInfo("image", 4, 1)
    return Part("part", nn.Sequential(*layers), (image,), TensorInfo("out", 4, 1), 1)


def searched(part: Part, x: Tensor, spec: QuantSpec = SPEC) -> PortSearch:
    (named,) = part.sites()
    search = PortSearch(named.port_name, [named], may_scale=True, may_shift=True, shift_is_free=False)
    with torch.no_grad(), watching_outputs([(search.port, search.observe)]):
        part.module(x)
    add_errors(part, [search], spec, [(x,)], ALONE)
    return search


def convolution() -> SiteConv:
    torch.manual_seed(0)
    return SiteConv(torch.randn(4, 4, 3, 3), torch.randn(4), pads=1)


@pytest.mark.parametrize("bits", [8, 6])
def test_it_is_chosen_for_what_is_bounded_below_and_wins_a_bit(bits: int) -> None:
    chosen = QuantSpec(method="learned", bits_weights=8, bits_activations=bits, pictures="photos")
    part, x = part_of(convolution()), torch.randn(1, 4, 32, 32).relu()
    search = searched(part, x, chosen)
    alpha, shift, share = search.best(chosen)
    assert shift is Shift.ZERO_POINT
    learner = search.begin(search.learner(chosen), (alpha, shift, share))
    assert learner.zero_point == 2 ** (bits - 1)
    plain = min(sum(errors) for (_alpha, kind, _share), errors in search.errors.items() if kind is Shift.NONE)
    assert sum(search.errors[alpha, shift, share]) < plain / 2


def test_what_is_not_bounded_below_gets_none() -> None:
    search = searched(part_of(convolution()), torch.randn(1, 4, 32, 32))
    assert not any(shift is Shift.ZERO_POINT for _alpha, shift, _share in search.candidates(SPEC))


def test_zero_keeps_its_code_whatever_scale_and_boundary_become() -> None:
    port = LearnedPort(3, (-128, 127), 4).begin(
        torch.tensor([-0.2, 0.0, -0.1]),
        torch.tensor([2.0, 4.0, 3.0]),
        torch.ones(3),
        torch.zeros(3),
        zero_point=115,
    )
    for _step in range(3):
        with torch.no_grad():
            port.log_scale += torch.randn(3)
            port.log_boundary += 0.3
        port.freeze_boundary()
        x = torch.tensor([0.0, -1e6, 1e6]).reshape(1, 1, 3, 1).expand(1, 3, 3, 1)
        codes = port(x) / port.step()
        torch.testing.assert_close(codes[0, :, :, 0].detach(), torch.tensor([[0.0, -13.0, 242.0]] * 3))


@torch.no_grad()
def test_what_was_learned_is_what_is_folded() -> None:
    """Learners and their folded value give the same, borders included; the float twin stays what it was."""
    part, x = part_of(convolution()), torch.rand(1, 4, 16, 16) * 3
    search = searched(part, x)
    port = search.begin(search.learner(SPEC), (0.4, Shift.ZERO_POINT, 1.0))
    (named,) = part.sites()
    learner = LearnedSite(4, SPEC.weight_code_max)
    learner.begin_bias(port.step(), port.weight(named.site.weight))
    learner.bias_units += torch.randn(4)
    exact = part.module(x)
    with PartTrainer(part, SPEC, [(x,)], Pairs([(x,)], []), Saved(None, ALONE)) as trainer:
        trainer.attach({named.site.port: port, named.site: learner})
        quant = trainer.quant()
        corrected = CorrectedSite(named.site, quant.sites["part.0"], port, learner)
        corrected.gain_units += torch.randn(4)
        with attached({named.site: corrected}):
            learned = part.module(x)
    quant = replace(quant, sites={"part.0": corrected.quant(quant.sites["part.0"])})
    row = quant.sites["part.0"]
    assert quant.ports["part.0"].zero_point and row.gain is not None and row.bias is not None
    folded = fold(part, quant, {"image": x})
    torch.testing.assert_close(part.module(x), exact, rtol=1e-4, atol=1e-4)
    with attached(fake_quantizers(part, folded)):
        torch.testing.assert_close(part.module(x), learned, rtol=1e-4, atol=1e-4)
    assert named.site.pads == (0, 0, 0, 0) and named.site.port.pads == (1, 1, 1, 1)
