"""doctor --gpu-report on the simulated device: every row is tried, a failure is a result, one file is written."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.tensorrt.gpu import InstalledGPU
from passionsr_trt.runtime.apps import gpu_report
from passionsr_trt.runtime.apps.gpu_report import Walk
from passionsr_trt.runtime.backends.loading import open_onnx
from passionsr_trt.runtime.backends.tensorrt.chain import DeviceMemory
from passionsr_trt.runtime.backends.tensorrt.executor import DeviceExecutor
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.main import main

from tests.conftest import COMMITTED
from tests.simulated_gpu import SimulatedDevice, SimulatedEngine

SIDE = 128
ROWS = [
    "load",
    "against ONNX Runtime",
    "graphs on and off",
    "pictures in a row",
    "INT8 against float",
    "tiles",
    "batches",
    "memory",
    "second start",
    "ONNX Runtime on CUDA",
    "ONNX Runtime on TensorRT",
]


def opened(folder: Path, graph: bool, device: SimulatedDevice | None = None) -> Chain:
    """A chain of an ONNX bundle's graphs on a simulated device, for one size and two at once."""
    bundle, device = OnnxBundle.load(folder), device or SimulatedDevice()
    most = 2 * SIDE**2
    engines = {part.name: SimulatedEngine(bundle.open(part), part, device, most) for part in bundle.parts}
    executor = DeviceExecutor(device, engines, graph)
    limits = ((SIDE, SIDE), (SIDE, SIDE))
    memory = DeviceMemory(executor, bundle.parts, most)
    return Chain(bundle.model, bundle.parts, executor, "simulated", limits, 2, memory)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "RUNS", 1)
    # sums in the simulated device's order: in another a value next to a tie takes the next code
    monkeypatch.setattr(gpu_report, "open_onnx", partial(open_onnx, threads=1))


def walked(**given: Path | None) -> dict[str, gpu_report.Row]:
    walk = Walk(COMMITTED / "onnx_int8", open_chain=opened, **given)  # type: ignore[arg-type]
    return {row.name: row for row in walk.run()}


def test_every_row_is_walked_and_the_figures_are_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    rows = walked(baseline=COMMITTED / "onnx_fp32", reference=COMMITTED / "onnx_int8")
    assert list(rows) == ROWS
    assert "tiles: cut_into tiles of 128×128 pixels" in capsys.readouterr().out
    assert {name for name, row in rows.items() if row.state == "ok"} == set(ROWS[:9]), rows
    for name in ROWS[9:]:
        assert "ONNX Runtime has no" in rows[name].found["reason"] and rows[name].state == "skipped"
    assert max(rows["against ONNX Runtime"].found.values()) < 1e-5, "the simulated parts are ONNX Runtime's"
    assert rows["graphs on and off"].found["difference"] == rows["pictures in a row"].found["difference"] == 0
    assert set(rows["INT8 against float"].found) == {"vae_encoder", "unet", "vae_decoder"}
    assert "128×128" in rows["tiles"].found["cut_into"] and rows["tiles"].found["error"] < 1e-5
    assert rows["batches"].found["batch"] == 2 and rows["batches"].found["difference"] < 0.05
    memory = rows["memory"].found
    assert 0 < memory["taken_mib"] <= memory["predicted_mib"] <= 2 * memory["taken_mib"]


def test_what_is_not_given_is_skipped_with_its_reason() -> None:
    rows = walked()
    skipped = {name: row.found["reason"] for name, row in rows.items() if row.state == "skipped"}
    assert set(skipped) == {"against ONNX Runtime", "INT8 against float", "tiles", *ROWS[9:]}
    assert "--baseline" in skipped["INT8 against float"] and "--reference" in skipped["tiles"]


def test_a_failure_is_a_result_and_the_walk_goes_on() -> None:
    def failing(folder: Path, graph: bool) -> Chain:
        device = SimulatedDevice()
        device.failing["synchronize"] = 1
        return opened(folder, graph, device)

    walk = Walk(COMMITTED / "onnx_int8", reference=COMMITTED / "onnx_int8", open_chain=failing)
    rows = {row.name: row for row in walk.run()}
    assert list(rows) == ROWS
    assert {name for name, row in rows.items() if row.state == "failed"} >= {
        "load",
        "graphs on and off",
        "batches",
    }
    assert rows["load"].found["reason"].startswith("UserError: ")


def test_without_a_gpu_it_says_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--gpu-report", str(tmp_path / "report.json")]
    assert main(words) == 1
    assert "expected --engines DIR" in capsys.readouterr().err
    assert main([*words, "--engines", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "no NVIDIA GPU here" in said and all(f"  {name}: " in said for name in ROWS)
    assert "Each part's relative error to its ONNX graph" in said
    assert not (tmp_path / "report.json").exists()


def test_the_report_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpu_report, "gpus", lambda: [InstalledGPU("NVIDIA GeForce RTX 4090", "8.9", 24564, "570.86.10")]
    )
    report = tmp_path / "report.json"
    engines = tmp_path / "engines"  # none are there: every row fails, and the report is written
    assert main(["doctor", "--gpu-report", str(report), "--engines", str(engines)]) == 1
    found = json.loads(report.read_text())
    assert found["driven_by"], "the bindings, or why there are none"
    assert found["gpus"][0]["capability"] == "8.9" and [row["name"] for row in found["rows"]] == ROWS
    assert {row["state"] for row in found["rows"]} == {"failed", "skipped"}
    assert "no manifest.json" in found["rows"][0]["found"]["reason"] and "python" in found["versions"]
