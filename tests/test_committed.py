"""The committed bundles are what an export makes today; `python -m tests.make_data` makes them anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.spec import QuantSpec

from tests.conftest import COMMITTED, DEMO, HAS_TORCH, ROOT, Built


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: exports a model")
@pytest.mark.parametrize("name", ["onnx_fp32", "onnx_int8"])
def test_the_committed_bundle_is_current(small: Built, name: str) -> None:
    committed, fresh = OnnxBundle.load(COMMITTED / name), OnnxBundle.load(getattr(small, name))
    for part in committed.parts:
        committed.open(part)  # undamaged
    assert (committed.calibration_key is None) == (fresh.calibration_key is None)
    # a calibration's last digits depend on the machine, and with them its digest
    same = {"versions": {}, "folder": fresh.folder, "calibration_key": None}
    assert replace(committed, **same) == replace(fresh, **same)


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: reads calibrations")
@pytest.mark.parametrize("model", ["model", "realesrgan"])
@pytest.mark.parametrize("without_vnni", [False, True])
def test_the_demo_finds_its_calibrations(model: str, without_vnni: bool) -> None:
    """Under the keys that `demo/run.py` asks for: without them it would calibrate for half an hour."""
    from passionsr_trt.export.calibrate.data import calibration_files, data_digest
    from passionsr_trt.export.families.weights import model_digest
    from passionsr_trt.export.quantize.calibration import Calibration, calibration_key

    spec = QuantSpec.load(DEMO / "no_vnni.json") if without_vnni else QuantSpec(method="learned")
    key = calibration_key(
        model_digest(DEMO / model), spec, data_digest(calibration_files(DEMO / "calib" / "lr", 32))
    )
    cache = ROOT / "calib_cache" / ("no_vnni" if without_vnni else "")
    assert Calibration.load(cache / key).key == key
