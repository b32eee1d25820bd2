"""Settling: codes stay, rows of the last part make up for what the chain got wrong; the graph has it in scales."""

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
from passionsr_trt.export.calibrate.dqc import CROP, learn_calibration
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.onnx.to_onnx import ExportPlan, export_part
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.quantizer import weight_codes

from tests.conftest import TINY

FILES = calibration_files(TINY, 2)
SPEC = QuantSpec(method="learned", let_steps=0, lbq_steps=0, settle_steps=0, bits_weights=4)
SETTLED = replace(SPEC, settle_steps=60, learning_rate=0.1)


@pytest.fixture(scope="module")
def unsettled(small_model: Path) -> Calibration:
    return learn_calibration(load_model(small_model), SPEC, FILES)


@pytest.fixture(scope="module")
def settled(small_model: Path) -> Calibration:
    return learn_calibration(load_model(small_model), SETTLED, FILES)


@torch.no_grad()
def chain_error(folder: Path, calibration: Calibration) -> float:
    """Of the quantized chain's pictures to the float chain's, on the calibration's own crops."""
    model, twin = load_model(folder), load_model(folder)
    found = 0.0
    for part in twin.parts:
        calibration.apply(part)
    for sources in crops([load_sources(path, model) for path in FILES], model, 0, CROP):
        tensors = dict(sources)
        for part in twin.parts:
            with part.mode(Mode.FAKE):
                tensors[part.output.name] = part.run(tensors)
        expected = model.run(sources)[part.output.name]
        found += float((tensors[part.output.name] - expected).square().mean())
    return found


def test_it_brings_the_chain_closer_and_touches_only_rows_of_the_last_part(
    small_model: Path, unsettled: Calibration, settled: Calibration
) -> None:
    last = load_model(small_model).parts[-1].name
    new = settled.tensors.keys() - unsettled.tensors.keys()
    gains = {key for key in new if key.endswith(".output_gain")}
    assert gains and all(key.startswith(f"{last}.") for key in new)
    assert {key.rpartition(".")[2] for key in new} == {"output_gain", "output_bias"}
    for key, value in unsettled.tensors.items():
        assert key.endswith(".output_bias") or torch.equal(value, settled.tensors[key]), key
    assert chain_error(small_model, settled) < 0.97 * chain_error(small_model, unsettled)


@pytest.mark.usefixtures("few_candidates")
def test_block_by_block_nothing_settles(small_model: Path) -> None:
    spec = replace(SETTLED, granularity="block", let_steps=1)
    tensors = learn_calibration(load_model(small_model), spec, FILES[:1]).tensors
    assert not any(key.endswith(".output_gain") for key in tensors)


def test_the_graph_has_the_gain_in_its_scales_and_codes_as_they_were(
    small_model: Path, settled: Calibration, tmp_path: Path
) -> None:
    part = load_model(small_model).parts[-1]
    settled.apply(part)
    named = next(
        named for named in part.sites() if named.site.output_gain is not None and named.site.kind == "conv"
    )
    site = named.site
    assert site.weight_scale is not None and site.output_gain is not None
    codes = weight_codes(site.weight.data, site.weight_scale, site.code_limit, site.turns)
    scale = site.weight_scale * site.output_gain
    path = tmp_path / "part.onnx"
    export_part(part, 64, ExportPlan(), path)
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    assert any(array.shape == codes.shape and (array == codes.numpy()).all() for array in arrays)
    assert any(array.shape == scale.shape and (array == scale.numpy()).all() for array in arrays)


@pytest.mark.parametrize(
    ("bad", "fact"), [(lambda gain: -gain, "not positive"), (lambda gain: gain[1:], "does not fit")]
)
def test_gains_that_cannot_be_are_refused(small_model: Path, settled: Calibration, bad: object, fact: str) -> None:
    assert callable(bad)
    key = next(key for key in settled.tensors if key.endswith(".output_gain"))
    wrong = replace(settled, tensors={**settled.tensors, key: bad(settled.tensors[key])})
    with pytest.raises(UserError, match=fact):
        wrong.apply(load_model(small_model).parts[-1])
