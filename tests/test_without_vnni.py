"""A CPU with VNNI runs the tests of engines and export once more as one without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.formats import FULL_RANGE
from passionsr_trt.engines.openvino.compile import openvino_int8_exact

ROOT = Path(__file__).resolve().parents[1]
# what depends on how this CPU computes INT8, and does not begin processes of that kind by itself (test_cpu.py)
FILES = (
    "tests/engines/test_build.py",
    "tests/engines/test_coverage.py",
    "tests/engines/test_half_range.py",
    "tests/engines/test_openvino_graph.py",
    "tests/engines/test_reference.py",
    "tests/engines/test_unsigned.py",
    "tests/export/test_to_onnx.py",
    "tests/export/test_explicit.py",
    "tests/export/test_image_networks.py",
    "tests/runtime/test_start.py",
)
# OpenVINO's layer norm takes its AVX-512 kernel here, whatever the variable says, and crashes on rows that are no
# multiple of 16; the suite itself runs this case on either kind of CPU
CRASHES = (
    "tests/export/test_image_networks.py::test_an_architecture_goes_from_its_checkpoint_to_int8_engines[SwinIR]"
)


@pytest.mark.slow
@pytest.mark.skipif(
    not openvino_int8_exact(FULL_RANGE), reason="this CPU has no VNNI: the suite itself is that run"
)
def test_engines_and_export_pass_without_vnni_too() -> None:
    missing = [name for name in FILES if not (ROOT / name).is_file()]
    assert not missing
    # on its own: as a worker of this run it would share what engines this run has built
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = {**own, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--deselect", CRASHES, *FILES]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
