"""The search's errors are each candidate's own, however inputs are stacked; held weights are the learned ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate import attempts, dqc
from passionsr_trt.export.calibrate.attempts import errors_of
from passionsr_trt.export.calibrate.held import holding
from passionsr_trt.export.calibrate.learn import LearnedWeight
from passionsr_trt.export.calibrate.resume import Progress
from passionsr_trt.export.calibrate.scratch import Scratch
from passionsr_trt.export.calibrate.search import Candidate, PortSearch
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.quantize.sites import NamedSite, Port, Site, SiteConv, SiteLinear, zero_padded
from torch import Tensor

SPEC = QuantSpec(method="search", min_channels=0)


def search_of(*sites: Site) -> PortSearch:
    named = [NamedSite(f"part.{index}", "part.0", site) for index, site in enumerate(sites)]
    return PortSearch("part.0", named, may_scale=True, may_shift=True, shift_is_free=False)


def one_by_one(search: PortSearch, x: Tensor) -> dict[Candidate, float]:
    """As it is defined: every candidate's W̃ quantized for itself, biases and all, in float64 at the end."""
    errors = {}
    for candidate in search.candidates(SPEC):
        learner, total = search.begin(search.learner(SPEC), candidate), 0.0
        for named in search.sites:
            site = named.site
            padded = zero_padded(x, site.pads) if isinstance(site, SiteConv) else x
            quantized = LearnedWeight(site.weight.shape[0], SPEC.weight_code_max)(learner.weight(site.weight))
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
@pytest.mark.parametrize("kind", ["convolutions", "linears"])
def test_stacked_inputs_give_every_candidate_its_own_error(
    kind: str, stacked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(attempts, "STACKED", stacked)
    search = search_of(*(convolutions() if kind == "convolutions" else linears()))
    sides = (9, 9, 7)  # a small picture among larger ones
    shapes = [(1, 4, side, side) if kind == "convolutions" else (2, side, 4) for side in sides]
    inputs = [torch.nn.functional.silu(torch.randn(shape) * 3) for shape in shapes]
    for x in inputs:
        search.observe(x)
    expected = [one_by_one(search, x) for x in inputs]
    found = errors_of(search, inputs, SPEC, Scratch())
    assert list(found) == search.candidates(SPEC) and len(found) == 36
    for candidate, error in found.items():
        assert error == pytest.approx(sum(errors[candidate] for errors in expected), rel=0.02), candidate


def test_ports_that_are_recorded_one_after_the_other_find_the_same(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = load_model(small_model).part("vae_decoder")
    torch.manual_seed(0)
    inputs = [(torch.randn(1, 4, 16, 16),)] * 2
    errors = []
    for room in (attempts.RECORDED, 1):
        monkeypatch.setattr(attempts, "RECORDED", room)
        with dqc.learning(part, SPEC, inputs, Progress(None)) as (searches, _state):
            errors.append({search.name: search.errors for search in searches})
    assert errors[0] == errors[1] and any(errors[0].values())


@torch.no_grad()
def test_held_weights_are_the_learned_ones_to_the_bit_and_nothing_of_them_stays(small_model: Path) -> None:
    part = load_model(small_model).part("vae_decoder")
    torch.manual_seed(0)
    x = torch.randn(1, 4, 16, 16)
    with dqc.learning(part, QuantSpec(method="smoothquant"), [(x,)], Progress(None)) as (searches, _state):
        for turned in (False, True):
            if turned:
                for named in searches[0].sites:
                    assert isinstance(named.site.learner, LearnedWeight)
                    named.site.learner.turns = torch.randint(-1, 2, named.site.weight.shape, dtype=torch.int8)
            learned = part.module(x)
            with holding(searches):
                assert torch.equal(part.module(x), learned)
        assert all(named.site.learner.held is None for search in searches for named in search.sites)  # type: ignore[union-attr]
