"""LET folds: any scale and shift at any port leaves the float model's output as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from passionsr_trt.export.families.stable_diffusion.fold import build_parts
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.quantize.proof import TOLERANCE, relative_error
from passionsr_trt.export.quantize.sites import Mode, SiteConv, group_ports, named_sites, set_mode
from passionsr_trt.export.quantize.transform import absorbers, fold_port
from torch import nn

from tests.conftest import DEMO
from tests.helpers import write_model


def fold_everything(part: nn.Module, name: str, shift: float, seed: int) -> int:
    """Random s in [0.2, 5] and δ at every port; returns how many ports an absorber took."""
    generator = torch.Generator().manual_seed(seed)
    found = absorbers(part)
    for sites in group_ports(list(named_sites(part, name))).values():
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
    parts, folded = build_parts(model), build_parts(model)
    x = torch.rand(1, 3, 64, 128) * 2 - 1
    for (name, part), (_name, other) in zip(parts.items(), folded.items(), strict=True):
        reference = part(x)
        assert fold_everything(other, name, shift, seed=1) > 0
        assert relative_error(reference, other(x)) <= TOLERANCE, name
        assert relative_error(reference, part(x)) == 0, "the original must not be touched"
        x = reference


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


def test_absorbed_ports_carry_no_explicit_operation(small_model: Path) -> None:
    unet = build_parts(OneStepModel.load(small_model)).unet
    fold_everything(unet, "unet", 0.5, seed=2)
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    for port in (block.attn1.to_q.port, block.attn2.to_q.port, block.ff.proj.port, block.attn1.to_out[0].port):
        assert port.multiplier is None and port.offset is None
    assert block.ff.out.port.multiplier is None and block.ff.out.port.offset is not None
    assert block.attn2.to_out[0].port.offset is None


def test_a_fold_carries_the_weight_quantizer_of_its_rows_along() -> None:
    """Quantizing before or after rows are scaled gives the same function."""
    torch.manual_seed(0)
    from passionsr_trt.export.quantize.sites import SiteLinear
    from passionsr_trt.export.quantize.transform import into_rows

    site, x = SiteLinear(torch.randn(5, 7), torch.randn(5)), torch.randn(3, 7)
    site.set_weight_scale(site.weight.abs().amax(1) / 127, 127)
    set_mode(site, Mode.FAKE)
    before = site(x)
    s, delta = torch.rand(5).double() + 0.5, torch.randn(5).double()
    into_rows(site, takes_shift=True).fold(s, delta)
    torch.testing.assert_close(site(x) * s.float() + delta.float(), before, rtol=1e-4, atol=1e-4)
