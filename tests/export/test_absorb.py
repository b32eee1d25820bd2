"""LET folds: any scale and shift at any port leaves the float model's output as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.stable_diffusion.chain import build_model
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.model.absorb import Absorb, Into, fold_port, resolve
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.proof import TOLERANCE, relative_error
from passionsr_trt.export.model.sites import SiteConv, SiteLinear, group_ports, named_sites
from passionsr_trt.export.quantize.fold import fold
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant
from torch import nn

from tests.conftest import DEMO
from tests.helpers import lone_part, write_model


def fold_everything(part: Part, shift: float, seed: int) -> int:
    """Random s in [0.2, 5] and δ at every port; returns how many ports an absorber took."""
    generator = torch.Generator().manual_seed(seed)
    found = part.absorbers()
    for sites in group_ports(part.sites()).values():
        channels = sites[0].site.in_channels
        s = torch.exp((torch.rand(channels, generator=generator, dtype=torch.float64) * 2 - 1) * 1.6)
        delta = shift * torch.randn(channels, generator=generator, dtype=torch.float64)
        fold_port(sites, found.get(sites[0].site.port), s, delta)
    return len(found)


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny", "demo"])
@torch.no_grad()
def test_random_transformations_of_every_port_change_nothing(tmp_path: Path, kind: str, shift: float) -> None:
    folder = DEMO / "model" if kind == "demo" else write_model(tmp_path / "model", kind)
    model = OneStepModel.load(folder)
    parts, folded = build_model(model).parts, build_model(model).parts
    tensors = {"image": torch.rand(1, 3, 64, 128) * 2 - 1}
    for part, other in zip(parts, folded, strict=True):
        reference = part.run(tensors)
        assert fold_everything(other, shift, seed=1) > 0
        assert relative_error(reference, other.run(tensors)) <= TOLERANCE, part.name
        assert relative_error(reference, part.run(tensors)) == 0, "the original must not be touched"
        tensors[part.output.name] = reference


def test_a_shifted_padded_convolution_is_exact_on_the_border() -> None:
    torch.manual_seed(0)
    site = SiteConv(torch.randn(4, 6, 3, 3), torch.randn(4), 2, (0, 0, 1, 1))
    x = torch.randn(1, 6, 8, 8)
    reference = site(x)
    fold_port(
        list(named_sites(nn.Sequential(site), "part")),
        None,
        torch.full((6,), 2.0).double(),
        torch.randn(6).double(),
    )
    assert site.pads == (0, 0, 0, 0) and site.port.pads == (0, 0, 1, 1)
    torch.testing.assert_close(site(x), reference, rtol=1e-5, atol=1e-5)


def test_absorbed_ports_carry_no_operation_of_their_own(small_model: Path) -> None:
    unet = load_model(small_model).part("unet")
    fold_everything(unet, 0.5, seed=2)
    block = unet.module.down_blocks[0].attentions[0].transformer_blocks[0]
    for port in (block.attn1.to_q.port, block.attn2.to_q.port, block.ff.proj.port, block.attn1.to_out[0].port):
        assert port.multiplier is None and port.offset is None
    assert block.ff.out.port.multiplier is None and block.ff.out.port.offset is not None
    assert block.attn2.to_out[0].port.offset is None


def test_a_fold_carries_the_weight_quantizer_and_the_output_bias_of_its_rows_along() -> None:
    """Quantizing before or after rows are scaled gives the same function."""
    torch.manual_seed(0)
    first, second, x = (
        SiteLinear(torch.randn(5, 7), torch.randn(5)),
        SiteLinear(torch.eye(5), None),
        torch.randn(3, 7),
    )
    part = replace(lone_part("part", nn.Sequential(first, second), 7), absorb=(Absorb("1", "0", Into.ROWS),))
    ports = {name: PortQuant(torch.tensor(1e-3)) for name in ("part.0", "part.1")}
    let = Let(torch.rand(5) + 0.5, torch.randn(5))
    row = SiteQuant(first.weight.abs().amax(1) / 127, bias=torch.randn(5))
    only_first = PartQuant({"part.0": PortQuant(torch.tensor(1.0))}, {"part.0": row})
    with attached({first: fake_quantizers(part, only_first)[first]}):
        before = first(x)
    both = PartQuant(
        {**ports, "part.1": replace(ports["part.1"], let=let)}, {"part.0": row, "part.1": SiteQuant(torch.ones(5))}
    )
    folded = fold(part, both)
    with attached({first: fake_quantizers(part, folded)[first]}):
        torch.testing.assert_close(first(x) * let.scale + let.shift, before, rtol=1e-4, atol=1e-4)


def test_a_row_of_a_family_that_names_no_neighbour_is_refused(small_model: Path) -> None:
    unet = load_model(small_model).part("unet").module
    with pytest.raises(UserError, match="to_q; expected the affine part"):
        resolve(unet, [Absorb("attn1.to_q", "attn1.to_k")])
    with pytest.raises(UserError, match="expected the output rows of a site"):
        resolve(unet, [Absorb("ff.out", "norm3", Into.ROWS)])


@torch.no_grad()
def test_a_wrong_row_is_refused_by_the_proof(small_model: Path) -> None:
    """norm1 in front of the feed-forward, which norm3 feeds: the float output is another."""
    part = load_model(small_model).part("unet")
    x = torch.randn(1, 4, 16, 16)
    reference = part.module(x)
    wrong = resolve(part.module, [Absorb("ff.proj", "norm1")])
    (port, absorber), *_others = wrong.items()
    sites = [named for named in part.sites() if named.site.port is port]
    channels = sites[0].site.in_channels
    fold_port(sites, absorber, torch.full((channels,), 2.0).double(), torch.zeros(channels).double())
    assert relative_error(reference, part.module(x)) > TOLERANCE


def test_quantizers_go_back_when_the_work_fails() -> None:
    site, outer, inner = SiteLinear(torch.randn(2, 2), None), nn.Identity(), nn.Identity()
    with attached({site: outer, site.port: outer}):
        with pytest.raises(RuntimeError), attached({site: inner, site.port: None}):
            raise RuntimeError
        assert site.quantizer is site.port.quantizer is outer
    assert site.quantizer is site.port.quantizer is None
