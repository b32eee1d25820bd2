"""compare and benchmark close the chains that they open, whatever happens in between; so caches are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.runtime.apps import benchmark, compare
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.main import main

from tests.conftest import DEMO, Built


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of the chains that were closed."""
    labels: list[str] = []
    original = Chain.close

    def close(chain: Chain) -> None:
        labels.append(chain.label)
        original(chain)

    monkeypatch.setattr(Chain, "close", close)
    return labels


def compare_words(built: Built, out: Path) -> list[str]:
    words = ["compare", str(DEMO / "photos" / "lr" / "chelsea.png"), "--reference", str(built.onnx_fp32)]
    return [*words, "--engines", str(built.engines_int8), "-o", str(out), "--parts-on", "0"]


def benchmark_words(built: Built, out: Path) -> list[str]:
    words = ["benchmark", "--engines", str(built.engines_int8), "--baseline", str(built.engines_fp32)]
    return [*words, "--onnx", str(built.onnx_fp32), "-o", str(out), "--size", "64x64"]


def fail(*_arguments: Any, **_options: Any) -> None:
    raise RuntimeError("in the middle of the work")


def test_compare_closes_both_chains(small: Built, tmp_path: Path, closed: list[str]) -> None:
    assert main(compare_words(small, tmp_path)) == 0
    assert sorted(closed) == ["ONNX Runtime FP32", "OpenVINO INT8"]


def test_benchmark_closes_every_chain(small: Built, tmp_path: Path, closed: list[str]) -> None:
    assert main(benchmark_words(small, tmp_path)) == 0
    assert sorted(closed) == ["ONNX Runtime FP32", "OpenVINO FP32", "OpenVINO INT8"]


def test_both_close_them_on_errors(
    small: Built, tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "compare_image", fail)
    monkeypatch.setattr(benchmark, "measure", fail)
    with pytest.raises(RuntimeError):
        main(compare_words(small, tmp_path))
    with pytest.raises(RuntimeError):
        main(benchmark_words(small, tmp_path))
    assert len(closed) == 5


def test_a_chain_that_cannot_be_opened_closes_those_before_it(
    small: Built, tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "open_onnx", fail)
    with pytest.raises(RuntimeError):
        main(benchmark_words(small, tmp_path))
    assert sorted(closed) == ["OpenVINO FP32", "OpenVINO INT8"]
    closed.clear()
    monkeypatch.undo()
    monkeypatch.setattr(Chain, "close", lambda chain: closed.append(chain.label))
    monkeypatch.setattr(EngineBundle, "label", property(fail))
    with pytest.raises(RuntimeError):
        main(compare_words(small, tmp_path))
    assert closed == ["ONNX Runtime FP32"]
