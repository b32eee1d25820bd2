"""`explicit` in the spec: where LET may leave operations in the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import calibration_files
from passionsr_trt.export.calibrate.dqc import learn_calibration
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.quantize.sites import Port

from tests.conftest import TINY


@pytest.mark.usefixtures("few_candidates")
def test_ports_outside_the_patterns_keep_their_graph(small_model: Path) -> None:
    model = load_model(small_model)
    spec = QuantSpec(method="learned", explicit=("vae_*",), let_steps=1, lbq_steps=1, settle_steps=1)
    result = learn_calibration(model, spec, calibration_files(TINY, 1))
    for part in model.parts:
        absorbed = set(part.absorbers())
        result.apply(part)
        left = [port for port in part.module.modules() if isinstance(port, Port) and port not in absorbed]
        operations = [port for port in left if port.multiplier is not None or port.offset is not None or port.pads]
        assert bool(operations) == part.name.startswith("vae_"), part.name
    assert any(key.startswith("unet.") and key.endswith(".let_scale") for key in result.tensors), (
        "absorbed ones stay"
    )
