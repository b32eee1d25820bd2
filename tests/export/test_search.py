"""The search's errors are each candidate's own, however inputs are stacked; its value computes as its learners."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.blocks import Pairs
from passionsr_trt.export.calibrate.compute import ALONE
from passionsr_trt.export.calibrate.learners import LearnedSite
from passionsr_trt.export.calibrate.steps import search as searching
from passionsr_trt.export.calibrate.steps.search import (
    Candidate,
    PortSearch,
    add_errors,
    errors_of,
    find_ranges,
    port_searches,
)
from passionsr_trt.export.calibrate.trainer import PartTrainer, Saved
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.sites import NamedSite, Port, Site, SiteConv, SiteLinear, zero_padded
from passionsr_trt.export.quantize.quantizers import Scratch, fake_quantizers
from passionsr_trt.export.quantize.values import PartQuant
from torch import Tensor

SPEC = QuantSpec(method="search", min_channels=0, pictures="photos")
BOTH = QuantSpec(method="search", min_channels=0, pictures="mixed")


def search_of(*sites: Site) -> PortSearch:
    named = [NamedSite(f"part.{index}", "part.0", site) for index, site in enumerate(sites)]
    return PortSearch("part.0", named, may_scale=True, may_shift=True, shift_is_free=False)


def one_by_one(search: PortSearch, x: Tensor, spec: QuantSpec) -> dict[Candidate, float]:
    """As it is defined: every candidate's W̃ quantized for itself, biases and all, in float64 at the end."""
    errors = {}
    for candidate in search.candidates(spec):
        learner, total = search.begin(search.learner(spec), candidate), 0.0
        for named in search.sites:
            site = named.site
            padded = zero_padded(x, site.pads) if isinstance(site, SiteConv) else x
            quantized = LearnedSite(site.weight.shape[0], SPEC.weight_code_max).quantize(
                learner.weight(site.weight)
            )
            results = []
            for given, weight, bias in (
                (learner.quantize(learner.transform(padded)), quantized, learner.bias(site.weight, site.bias)),
                (padded, site.weight, site.bias),
            ):
                if isinstance(site, SiteConv):
                    results.append(torch.nn.functional.conv2d(given, weight, bias, site.stride))
                else:
                    results.append(torch.nn.functional.linear(given, weight, bias))
            error = (results[0] - results[1]).double()
            axes = (0, 2, 3) if error.dim() == 4 else tuple(range(error.dim() - 1))
            total += float((error - error.mean(axes, keepdim=True)).square().sum())
        errors[candidate] = total
    return errors


def convolutions() -> list[Site]:
    port = Port()
    return [SiteConv(torch.randn(5, 4, 3, 3), torch.randn(5), 1, 1, port) for _site in range(2)]


def linears() -> list[Site]:
    port = Port()
    return [SiteLinear(torch.randn(rows, 4), None, port) for rows in (3, 6)]


@torch.no_grad()
@pytest.mark.parametrize("stacked", [1, 4 << 10, 1 << 30])
@pytest.mark.parametrize(("kind", "spec"), [("convolutions", SPEC), ("linears", SPEC), ("convolutions", BOTH)])
def test_stacked_inputs_give_every_candidate_its_own_error(
    kind: str, spec: QuantSpec, stacked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(searching, "STACKED", stacked)
    search = search_of(*(convolutions() if kind == "convolutions" else linears()))
    sides = (9, 9, 7)  # a small picture among larger ones
    shapes = [(1, 4, side, side) if kind == "convolutions" else (2, side, 4) for side in sides]
    inputs = [torch.nn.functional.silu(torch.randn(shape) * 3) for shape in shapes]
    for x, is_drawn in zip(inputs, (False, False, True), strict=True):
        search.observe(x, is_drawn)
    expected = [one_by_one(search, x, spec) for x in inputs]
    found, powers = errors_of(search, inputs, spec, Scratch())
    assert list(found) == search.candidates(spec) and len(found) == 36
    for candidate, errors in found.items():
        assert errors == pytest.approx([own[candidate] for own in expected], rel=0.02), candidate
    assert len(powers) == 3 and min(powers) > max(min(errors) for errors in found.values())


def test_ports_that_are_recorded_one_after_the_other_find_the_same(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = load_model(small_model).part("vae_decoder")
    torch.manual_seed(0)
    inputs = [(torch.randn(1, 4, 16, 16),)] * 2
    errors = []
    for room in (searching.RECORDED, 1):
        monkeypatch.setattr(searching, "RECORDED", room)
        searches = port_searches(part, SPEC)
        find_ranges(part, searches, inputs, ALONE)
        add_errors(part, searches, SPEC, inputs, ALONE)
        errors.append({search.name: search.errors for search in searches})
    assert errors[0] == errors[1] and any(errors[0].values())


def test_a_cover_lies_between_the_users_range_and_that_of_all_pictures() -> None:
    search = search_of(SiteConv(torch.randn(5, 3, 3, 3), torch.randn(5), 1, 1, Port()))
    search.observe(torch.tensor([[-1.0, 4.0], [0.0, 1.0], [0.0, 0.0]]).reshape(1, 3, 1, 2))
    search.observe(torch.tensor([[-4.0, 1.0], [0.0, 16.0], [0.0, 9.0]]).reshape(1, 3, 1, 2), drawn=True)
    for cover, lows, highs in (
        (1.0, [-1, 0, 0], [4, 1, 0]),
        (1.5, [-2, 0, 0], [4, 4, 0.9]),  # a channel that only drawn pictures drive gets room
        (2.0, [-4, 0, 0], [4, 16, 9]),
    ):
        low, high = search.range(cover)
        assert low.tolist() == pytest.approx(lows) and high.tolist() == pytest.approx(highs)


@torch.no_grad()
def test_what_is_attached_by_value_computes_as_the_learners_to_the_bit(small_model: Path) -> None:
    """Before LET is folded; and nothing of either stays."""
    part = load_model(small_model).part("vae_decoder")
    torch.manual_seed(0)
    x = torch.randn(1, 4, 16, 16)
    for method in ("smoothquant", "search"):
        with PartTrainer(part, QuantSpec(method=method), [(x,)], Pairs([(x,)], []), Saved(None, ALONE)) as trainer:
            quant = searching.search(trainer, PartQuant())
            learned = part.module(x)
            with attached(fake_quantizers(part, quant)):
                assert torch.equal(part.module(x), learned)
        assert all(named.site.quantizer is named.site.port.quantizer is None for named in part.sites())
