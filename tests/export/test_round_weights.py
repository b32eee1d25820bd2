"""Second-order rounding: errors cancel on the inputs' own statistics; codes stay beside their nearest;
the artefact carries them to the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.calibrate.pipeline import CROP, calibrate
from passionsr_trt.export.calibrate.steps import round_weights as rounding
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.proof import relative_error
from passionsr_trt.export.model.sites import Port, Site, SiteConv, SiteLinear
from passionsr_trt.export.onnx.to_onnx import ExportPlan, export_part
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.grids import weight_codes
from passionsr_trt.export.quantize.values import pack_offsets, unpack_offsets

from tests.conftest import DEMO, TINY
from tests.helpers import applied, faked

FILES = calibration_files(DEMO / "calib" / "lr", 2)
TINY_FILES = calibration_files(TINY, 1)


def correlated(channels: int, seed: int) -> torch.Tensor:
    """Columns [channels, 512] of a few common causes and a little of their own."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, 3, generator=generator)
    own = torch.randn(channels, 512, generator=generator)
    return mixing @ torch.randn(3, 512, generator=generator) + 0.2 * own


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 300), st.integers(1, 9), st.sampled_from([7, 31, 127]), st.integers(0, 99))
def test_errors_cancel_and_codes_stay_beside_their_nearest(columns: int, rows: int, limit: int, seed: int) -> None:
    x = correlated(columns, seed)
    torch.manual_seed(seed)
    exact = torch.randn(rows, columns) * limit / 2
    nearest = exact.round().clamp(-limit, limit)
    turned = rounding.rounding_offsets(exact, [rounding.Factor.of(x @ x.t())], limit)
    codes = nearest + turned
    assert turned.abs().max() <= 1 and codes.abs().max() <= limit

    def error(found: torch.Tensor) -> float:
        return float(((exact.clamp(-limit, limit) - found) @ x).square().sum())

    inside = bool((exact.abs() <= limit).all())
    assert not inside or error(codes) <= error(nearest) * 1.05
    if inside and columns >= 32:
        assert error(codes) < 0.5 * error(nearest), "three causes leave the errors much room to cancel"


def test_a_port_that_never_hears_anything_rounds_to_the_nearest() -> None:
    assert not rounding.rounding_offsets(torch.randn(3, 5) * 9, [rounding.Factor.of(torch.zeros(5, 5))], 127).any()


@pytest.mark.parametrize(("stride", "pads"), [(1, (1, 1, 1, 1)), (2, (0, 0, 1, 1)), (1, (0, 0, 0, 0))])
def test_columns_are_what_a_row_of_the_weight_meets(stride: int, pads: tuple[int, ...]) -> None:
    site = SiteConv(torch.randn(5, 3, 3, 3), None, stride, pads)
    x = torch.randn(2, 3, 12, 10)
    columns = rounding.columns_of(site, x, torch.Generator())
    expected = site(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(site.weight.flatten(1) @ columns, expected, rtol=1e-4, atol=1e-5)


def test_of_a_large_tensor_a_window_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "WINDOW", 4)
    conv = SiteConv(torch.randn(5, 3, 3, 3), None, 2, 1)
    assert rounding.columns_of(conv, torch.randn(1, 3, 40, 9), torch.Generator()).shape == (27, 16)
    linear = SiteLinear(torch.randn(5, 3), None)
    assert rounding.columns_of(linear, torch.randn(2, 21, 3), torch.Generator()).shape == (3, 14)


@pytest.mark.usefixtures("few_candidates")
def test_wide_layers_are_cut_between_channels_and_a_large_part_into_passes(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "COLUMNS", 40)
    assert rounding.column_groups(SiteConv(torch.randn(2, 10, 3, 3), None)) == [(0, 36), (36, 72), (72, 90)]
    assert rounding.column_groups(SiteLinear(torch.randn(2, 90), None)) == [(0, 40), (40, 80), (80, 90)]
    whole = calibrate(load_model(small_model), QuantSpec(method="smoothquant"), TINY_FILES).quant.sites
    monkeypatch.setattr(rounding, "BUDGET", 100_000)
    cut = calibrate(load_model(small_model), QuantSpec(method="smoothquant"), TINY_FILES).quant.sites
    assert list(whole) == list(cut)
    # windows are the same; later passes see the weights of earlier ones rounded
    pairs = [(row.offsets, cut[name].offsets) for name, row in whole.items()]
    same = [float((a == b).float().mean()) for a, b in pairs if a is not None and b is not None]
    assert same[0] == 1.0 and 0.7 < np.mean(same) < 1.0


@given(st.lists(st.integers(-1, 1), min_size=1, max_size=30))
def test_four_offsets_fit_into_a_byte(values: list[int]) -> None:
    turned = torch.tensor(values, dtype=torch.int8)
    packed = pack_offsets(turned)
    back = unpack_offsets(packed, turned.shape)
    assert back is not None and torch.equal(back, turned) and packed.numel() == -(-len(values) // 4)
    assert unpack_offsets(packed, torch.Size((len(values) + 4,))) is None
    assert unpack_offsets(torch.full_like(packed, 255), turned.shape) is None


@pytest.fixture(scope="module")
def calibrations(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of weights of 4 bits, by their rounding."""
    folders = {how: tmp_path_factory.mktemp("rounded") / how for how in ("nearest", "second_order")}
    for how, folder in folders.items():
        spec = QuantSpec(method="smoothquant", bits_weights=4, rounding=how, pictures="photos")
        calibrate(load_model(small_model), spec, FILES).save(folder)
    return folders


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_has_the_codes_that_were_chosen(
    small_model: Path, calibrations: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    model = load_model(small_model)
    (sources,) = crops([load_sources(FILES[1], model)], model, 0, CROP)
    expected = model.run(sources)["image_out"]
    errors = {}
    for how, folder in calibrations.items():
        twin = load_model(small_model)
        loaded = Calibration.load(folder)
        quants = {part.name: applied(loaded, part) for part in twin.parts}
        part = twin.part("vae_decoder")
        quant = quants[part.name]
        with faked(part, quant):
            errors[how] = relative_error(expected, part.run(twin.run(sources)))
    assert errors["second_order"] < 0.8 * errors["nearest"]
    named = next(named for named in part.sites() if named.name in quant.sites)
    row, weight = quant.sites[named.name], named.site.weight.data
    offsets = row.rounding_offsets(weight.shape)
    assert offsets is not None and offsets.any()
    codes = weight_codes(weight, row.scale, 7, offsets)
    export_part(part, quant, 64, ExportPlan(precision=precision), tmp_path / "part.onnx")
    stored = [numpy_helper.to_array(x) for x in onnx.load(str(tmp_path / "part.onnx")).graph.initializer]
    assert any(x.dtype == np.int8 and np.array_equal(x, codes.numpy()) for x in stored)


def test_offsets_of_another_model_are_refused_and_rounding_to_the_nearest_has_none(small_model: Path) -> None:
    calibration = calibrate(load_model(small_model), QuantSpec(method="smoothquant"), TINY_FILES)
    sites = dict(calibration.quant.sites)
    name, row = next(iter(sites.items()))
    assert row.offsets is not None
    sites[name] = replace(row, offsets=row.offsets[1:])
    wrong = replace(calibration, quant=replace(calibration.quant, sites=sites))
    with pytest.raises(UserError, match="rounding_offsets does not fit"):
        for part in load_model(small_model).parts:
            applied(wrong, part)
    spec = QuantSpec(method="smoothquant", rounding="nearest")
    plain = calibrate(load_model(small_model), spec, TINY_FILES)
    assert all(row.offsets is None for row in plain.quant.sites.values())


@pytest.mark.usefixtures("few_candidates")
def test_nothing_of_it_stays_on_the_model(small_model: Path) -> None:
    model = load_model(small_model)
    calibrate(model, QuantSpec(method="smoothquant"), TINY_FILES)
    modules = [module for part in model.parts for module in part.module.modules()]
    assert all(module.quantizer is None for module in modules if isinstance(module, Site | Port))
