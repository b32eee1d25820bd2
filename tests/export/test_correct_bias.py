"""Bias correction: codes stay, rows of the last part make up for the chain's errors; the scales have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.calibrate.pipeline import CROP, calibrate
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.onnx.to_onnx import ExportPlan, export_part
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.grids import weight_codes

from tests.conftest import TINY
from tests.helpers import applied, faked

FILES = calibration_files(TINY, 2)
SPEC = QuantSpec(method="learned", let_steps=0, lbq_steps=0, correction_steps=0, bits_weights=4, pictures="photos")
CORRECTED = replace(SPEC, correction_steps=40, learning_rate=0.1)


@pytest.fixture(scope="module")
def uncorrected(small_model: Path) -> Calibration:
    return calibrate(load_model(small_model), SPEC, FILES)


@pytest.fixture(scope="module")
def corrected(small_model: Path) -> Calibration:
    return calibrate(load_model(small_model), CORRECTED, FILES)


@torch.no_grad()
def chain_error(folder: Path, calibration: Calibration) -> float:
    """Of the quantized chain's pictures to the float chain's, on the calibration's own crops."""
    model, twin, error = load_model(folder), load_model(folder), 0.0
    quants = [applied(calibration, part) for part in twin.parts]
    for sources in crops([load_sources(path, model) for path in FILES], model, 0, CROP):
        tensors = dict(sources)
        for part, quant in zip(twin.parts, quants, strict=True):
            with faked(part, quant):
                tensors[part.output.name] = part.run(tensors)
        expected = model.run(sources)[part.output.name]
        error += float((tensors[part.output.name] - expected).square().mean())
    return error


def test_it_brings_the_chain_closer_and_touches_only_rows_of_the_last_part(
    small_model: Path, uncorrected: Calibration, corrected: Calibration
) -> None:
    last = load_model(small_model).parts[-1].name
    assert corrected.quant.ports == uncorrected.quant.ports
    rows = {name: (row, corrected.quant.sites[name]) for name, row in uncorrected.quant.sites.items()}
    assert all(replace(after, gain=None, bias=before.bias) == before for before, after in rows.values())
    changed = {name for name, (before, after) in rows.items() if before != after}
    assert changed and all(name.startswith(f"{last}.") for name in changed)
    assert any(row.gain is not None for row in corrected.quant.sites.values())
    errors = [chain_error(small_model, calibration) for calibration in (corrected, uncorrected)]
    assert errors[0] < 0.97 * errors[1]


@pytest.mark.usefixtures("few_candidates")
def test_block_by_block_nothing_is_corrected(small_model: Path) -> None:
    spec = replace(CORRECTED, granularity="block", let_steps=1)
    quant = calibrate(load_model(small_model), spec, FILES[:1]).quant
    assert all(row.gain is None for row in quant.sites.values())


def test_the_graph_has_the_gain_in_its_scales_and_codes_as_they_were(
    small_model: Path, corrected: Calibration, tmp_path: Path
) -> None:
    part = load_model(small_model).parts[-1]
    quant = applied(corrected, part)
    named = next(
        named
        for named in part.sites()
        if named.name in quant.sites and quant.sites[named.name].gain is not None and named.site.kind == "conv"
    )
    row, weight = quant.sites[named.name], named.site.weight.data
    assert row.gain is not None
    codes = weight_codes(weight, row.scale, quant.grid.limit, row.rounding_offsets(weight.shape))
    scale = row.scale * row.gain
    path = tmp_path / "part.onnx"
    export_part(part, quant, 64, ExportPlan(), path)
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    assert any(array.shape == codes.shape and (array == codes.numpy()).all() for array in arrays)
    assert any(array.shape == scale.shape and (array == scale.numpy()).all() for array in arrays)


@pytest.mark.parametrize(
    ("bad", "fact"), [(lambda gain: -gain, "not positive"), (lambda gain: gain[1:], "does not fit")]
)
def test_gains_that_cannot_be_are_refused(
    small_model: Path, corrected: Calibration, bad: object, fact: str
) -> None:
    assert callable(bad)
    name, row = next((name, row) for name, row in corrected.quant.sites.items() if row.gain is not None)
    quant = replace(corrected.quant, sites={**corrected.quant.sites, name: replace(row, gain=bad(row.gain))})
    with pytest.raises(UserError, match=fact):
        applied(replace(corrected, quant=quant), load_model(small_model).parts[-1])
