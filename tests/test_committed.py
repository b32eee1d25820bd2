"""The committed bundles are what an export makes today; `python -m tests.make_data` makes them anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.runtime.backends.packaged import REALESR_GENERAL

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
@pytest.mark.parametrize("without_vnni", [False, True])
def test_the_packaged_network_is_of_the_committed_calibration(without_vnni: bool) -> None:
    """`make packaged` makes it anew."""
    from passionsr_trt.export.families.weights import model_digest
    from passionsr_trt.export.quantize.calibration import find_calibration

    bundle = REALESR_GENERAL.bundle(full_range=not without_vnni)
    for part in bundle.parts:
        bundle.open(part)  # undamaged
    digest = model_digest(DEMO / "realesrgan")
    calibration = find_calibration(ROOT / "calib_cache" / ("no_vnni" if without_vnni else ""), digest)
    assert (bundle.model.digest, bundle.calibration_key) == (digest, calibration.digest)
    assert bundle.spec is not None and bundle.spec == calibration.spec
    assert bundle.spec.weight_code_limit == (63 if without_vnni else 127)
    assert bundle.title == "Real-ESRGAN general ×4, INT8"
    licence = (REALESR_GENERAL.folder / REALESR_GENERAL.licence_file).read_text(encoding="utf-8")
    assert licence == (DEMO / "realesrgan" / "LICENSE.realesrgan").read_text(encoding="utf-8")


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
