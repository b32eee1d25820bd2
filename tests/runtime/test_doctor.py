"""doctor and benchmark where OpenVINO is not installed, as in the image for TensorRT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.backends import TENSORRT, TensorRTTarget
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.wiring import ModelInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.tensorrt.gpu import InstalledGPU
from passionsr_trt.runtime.apps import doctor
from passionsr_trt.runtime.backends.openvino_profile import check_profiled
from passionsr_trt.runtime.main import main


def without_openvino(code: str) -> subprocess.CompletedProcess[str]:
    """Python code where `import openvino` fails."""
    words = [sys.executable, "-c", f"import sys\nsys.modules['openvino'] = None\n{code}"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_doctor_says_that_openvino_is_missing() -> None:
    done = without_openvino("from passionsr_trt.runtime.main import main; sys.exit(main(['doctor']))")
    assert "missing   openvino" in done.stdout and "Python " in done.stdout, done.stderr
    assert "openvino       build: no   run: no" in done.stdout and "CPU INT8" not in done.stdout
    assert done.stderr == ""


def test_doctor_is_content_with_a_gpu_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    present = {"tensorrt", "pycuda", "cuda.bindings"}
    monkeypatch.setattr(doctor, "installed", lambda module: module in present)
    monkeypatch.setattr(doctor, "binding_runs", lambda: True)
    monkeypatch.setattr(
        doctor, "gpus", lambda: [InstalledGPU("NVIDIA GeForce RTX 4090", "8.9", 24564, "570.86.10")]
    )
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "tensorrt       build: yes  run: yes" in printed and "openvino       build: no   run: no" in printed
    monkeypatch.setattr(doctor, "gpus", lambda: [])
    assert main(["doctor"]) == 1


def test_doctor_says_no_where_what_drives_the_gpu_cannot_be_imported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    broken = 'raise ImportError("libcurand.so.10: cannot open shared object file")\n'
    (tmp_path / "pycuda" / "driver.py").write_text(broken)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setattr(doctor, "installed", lambda module: module in ("tensorrt", "pycuda"))
    monkeypatch.setattr(doctor, "gpus", lambda: [InstalledGPU("Orin (nvgpu)", "8.7", 0, "540.4.0")])
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "pycuda is here, but cannot be used: libcurand.so.10: cannot open" in printed
    assert "tensorrt       build: yes  run: no" in printed
    assert "Orin (nvgpu), SM 8.7, driver 540.4.0\n" in printed, "what the driver does not tell is not 0"


def test_doctor_knows_the_version_of_every_package_that_it_finds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings")
    monkeypatch.setattr(doctor, "installed", lambda module: module == "cuda.bindings")
    doctor.check_packages()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "found" in line]
    assert "cuda-bindings" in line and "version unknown" not in line


def test_nobody_misses_pycuda_beside_cuda_bindings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "installed", lambda module: module != "pycuda")
    assert not doctor.check_packages() and "pycuda" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "module",
    [
        "apps.doctor",
        "apps.benchmark",
        "apps.compare",
        "infer",
        "backends.openvino_profile",
        "backends.tensorrt.chain",
    ],
)
def test_what_tensorrt_engines_need_imports_no_openvino(module: str) -> None:
    done = without_openvino(f"import passionsr_trt.runtime.{module}")
    assert done.returncode == 0, done.stderr


def test_benchmark_goes_on_to_the_engines_without_openvino(tmp_path: Path) -> None:
    words = ["benchmark", "--engines", str(tmp_path), "--baseline", str(tmp_path), "-o", str(tmp_path / "out")]
    done = without_openvino(f"from passionsr_trt.runtime.main import main; sys.exit(main({words!r}))")
    assert done.returncode == 1 and "no manifest.json" in done.stderr and "openvino" not in done.stderr


def test_a_profile_of_other_engines_is_refused(tmp_path: Path) -> None:
    size = (512, 512)
    target = TensorRTTarget(size, size, size, 1, (), 0, None, False, False)
    model = ModelInfo("", "none", 4, "none")
    bundle = EngineBundle(model, "fp16", None, (), {}, TENSORRT, target, {}, {}, {}, folder=tmp_path)
    with pytest.raises(UserError, match="no profile of engines for tensorrt; expected OpenVINO") as raised:
        check_profiled(bundle)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("versions", "release", "expected"),
    [
        ({}, ", L4T R36.4", []),
        ({"tensorrt": "10.3.0"}, ", L4T R36.4", []),
        ({"tensorrt": "11.4.1", "onnxruntime-gpu": "1.27.0"}, ", L4T R39.2", []),
        ({"tensorrt": "11.4.1.2", "onnxruntime-gpu": "1.24.4"}, "", ["1.27 or newer"]),
        ({"tensorrt": "11.4.1", "onnxruntime-gpu": "1.9"}, ", L4T R36.4", ["1.27 or newer", "JetPack 7.2.2"]),
        ({"tensorrt": "10.13", "onnxruntime-gpu": "1.24.4"}, "", []),
    ],
)
def test_doctor_warns_of_what_does_not_go_together(
    versions: dict[str, str], release: str, expected: list[str]
) -> None:
    lines = doctor.odd_pairs(versions, release)
    assert len(lines) == len(expected)
    assert all(words in line for line, words in zip(lines, expected, strict=True))


def test_doctor_says_how_fast_int8_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "CPU INT8" in line)
    assert "exact with weight codes of ±" in line and line.endswith("as fast as float32")
    assert "; convolution " in line and ", linear " in line
