"""`explicit` in the spec: where LET may leave operations in the graph."""

from __future__ import annotations

from pathlib import Path

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import calibration_files
from passionsr_trt.export.calibrate.dqc import learn_calibration
from passionsr_trt.export.families.stable_diffusion.fold import build_parts
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.quantize.sites import Port
from passionsr_trt.export.quantize.transform import absorbers

from tests.conftest import DEMO


def test_ports_outside_the_patterns_keep_their_graph(small_model: Path) -> None:
    model = OneStepModel.load(small_model)
    parts = build_parts(model)
    spec = QuantSpec(method="learned", explicit=("vae_*",), let_steps=1, lbq_steps=1)
    result = learn_calibration(model, parts, spec, calibration_files(DEMO / "calib" / "lr", 1))
    for name, part in parts.items():
        absorbed = set(absorbers(part))
        result.apply(part, name)
        left = [port for port in part.modules() if isinstance(port, Port) and port not in absorbed]
        operations = [port for port in left if port.multiplier is not None or port.offset is not None or port.pads]
        assert bool(operations) == name.startswith("vae_"), name
    assert any(key.startswith("unet.") and key.endswith(".let_scale") for key in result.tensors), (
        "absorbed ones stay"
    )
