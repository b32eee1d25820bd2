"""`explicit` in the spec: where LET may leave operations in the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import calibration_files
from passionsr_trt.export.calibrate.pipeline import calibrate
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.sites import Port

from tests.conftest import TINY
from tests.helpers import applied


@pytest.mark.usefixtures("few_candidates")
def test_ports_outside_the_patterns_keep_their_graph(small_model: Path) -> None:
    model = load_model(small_model)
    spec = QuantSpec(method="learned", unabsorbed=("vae_*",), let_steps=1, lbq_steps=1, correction_steps=1)
    result = calibrate(model, spec, calibration_files(TINY, 1))
    for part in model.parts:
        absorbed = set(part.absorbers())
        applied(result, part)
        left = [port for port in part.module.modules() if isinstance(port, Port) and port not in absorbed]
        operations = [port for port in left if port.multiplier is not None or port.offset is not None or port.pads]
        assert bool(operations) == part.name.startswith("vae_"), part.name
    rows = result.of_part(model.part("unet")).ports.values()
    assert any(row.let is not None for row in rows), "absorbed ones stay"
