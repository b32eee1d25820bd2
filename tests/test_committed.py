"""The committed bundles are what an export makes today; `python -m tests.make_data` makes them anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from passionsr_trt.engines.bundle.bundles import OnnxBundle

from tests.conftest import COMMITTED, HAS_TORCH, Built


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
