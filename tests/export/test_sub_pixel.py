"""Sub-pixel form: exact, borders included; LET folds into it, and multiply-accumulates are counted both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model import sub_pixel
from passionsr_trt.export.model.absorb import fold_port, into_rows
from passionsr_trt.export.model.part import smooth_sources
from passionsr_trt.export.model.proof import FoldError, relative_error
from passionsr_trt.export.model.sites import NamedSite, SiteConv
from passionsr_trt.export.model.sub_pixel import Nearest2x, SubPixelConv, in_sub_pixel_form
from torch import nn


def written(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_it_is_the_enlarged_convolution(
    channels: int, outputs: int, rows: int, columns: int, biased: bool
) -> None:
    torch.manual_seed(channels * rows)
    weight, bias = torch.randn(outputs, channels, 3, 3), torch.randn(outputs) if biased else None
    x = torch.randn(2, channels, rows, columns)
    site = SubPixelConv.of(weight, bias)
    torch.testing.assert_close(site(x), written(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_a_wrong_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sub_pixel, "SUMS", torch.ones(2, 2, 3, dtype=torch.float64))
    with pytest.raises(FoldError, match="sub-pixel form"):
        SubPixelConv.of(torch.randn(2, 2, 3, 3), None)


def test_shift_and_scale_fold_into_it_and_its_rows_absorb() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(3, 4, 3, 3), torch.randn(1, 4, 5, 6)
    site = SubPixelConv.of(weight, torch.randn(3))
    before = site(x)
    s, delta = torch.rand(4).double() + 0.5, torch.randn(4).double()
    fold_port([NamedSite("a", "a", site)], None, s, delta)
    assert relative_error(before, site(x)) < 1e-5 and site.pads == (0, 0, 0, 0)
    rows, shifts = torch.rand(3).double() + 0.5, torch.randn(3).double()
    into_rows(site, takes_shift=True).fold(rows, shifts)
    expected = (before.double() - shifts.reshape(1, -1, 1, 1)) / rows.reshape(1, -1, 1, 1)
    assert relative_error(expected, site(x)) < 1e-5


def test_the_rule_takes_what_it_fits_and_nothing_else() -> None:
    torch.manual_seed(0)
    conv = {"3×3": (3, 1, 1), "1×1": (1, 1, 0), "stride": (3, 2, 1), "pads": (3, 1, 0)}
    for name, (size, stride, pads) in conv.items():
        layer = SiteConv(torch.randn(4, 4, size, size), None, stride, pads)
        layers = nn.ModuleDict({"1": SiteConv(torch.randn(4, 4, 1, 1), None), "2": Nearest2x(), "3": layer})
        x = torch.randn(1, 4, 4, 6)
        result = in_sub_pixel_form(layers)
        assert isinstance(result["3"], SubPixelConv) == (name == "3×3") == ("2" not in result)
        expected, found = x, x
        for before in layers.values():
            expected = before(expected)
        for after in result.values():
            found = after(found)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_counts_both(small_model: Path) -> None:
    model = load_model(small_model)
    part = model.part("vae_decoder")
    sources = smooth_sources(model.parts, (64, 64))
    tensors = {**sources, **model.run(sources)}
    infos = {site.name: site for site in part.site_infos(tensors)}
    fewer = {name for name, site in infos.items() if site.macs != site.macs_written}
    assert fewer == {f"vae_decoder.up_blocks.{index}.upsamplers.0.conv" for index in range(3)}
    assert all(infos[name].macs_written == infos[name].macs * 9 / 4 for name in fewer)
