"""Block by block: the costliest blocks first, a share of them alone, stopped at any block and gone on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate import trainer
from passionsr_trt.export.calibrate.blocks import (
    FIRST,
    BlockTiming,
    Pairs,
    Schedule,
    block_costs,
    blocks_in_order,
    learning_order,
    outermost_blocks,
)
from passionsr_trt.export.calibrate.compute import ALONE
from passionsr_trt.export.calibrate.learners import LearnedSite, learned_ports
from passionsr_trt.export.calibrate.pipeline import calibrate as calibrate_model
from passionsr_trt.export.calibrate.steps.search import search
from passionsr_trt.export.calibrate.trainer import PartTrainer, Saved, TrainingStage
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.sites import Site
from passionsr_trt.export.quantize.calibration import Calibration, tensors_of
from passionsr_trt.export.quantize.values import PartQuant
from passionsr_trt.runtime.main import main

from tests.conftest import DEMO, TINY
from tests.export import networks

IMAGES = DEMO / "calib" / "lr"
BLOCK = {
    "method": "learned",
    "granularity": "block",
    "let_steps": 1,
    "lbq_steps": 1,
    "rounding": "nearest",
    "pictures": "photos",
}


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The title of every block that learns in this process."""
    titles: list[str] = []
    run_stage = trainer.run_stage

    def noted(module: torch.nn.Module, stage: TrainingStage, title: str, *rest: Any) -> None:
        if stage.name == "LET":
            titles.append(title)
        run_stage(module, stage, title, *rest)

    monkeypatch.setattr(trainer, "run_stage", noted)
    return titles


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 1))
def test_the_costliest_come_first_and_the_rest_as_they_run(values: list[float], share: float) -> None:
    costs = {f"block {index}": value for index, value in enumerate(values)}
    order, running = learning_order(costs, share), list(costs)
    assert len(order) == len(set(order)) and share * len(costs) <= len(order) < share * len(costs) + 1
    left_out = [costs[path] for path in costs if path not in order]
    assert not left_out or max(left_out) <= min(costs[path] for path in order)
    first = order[: -(-int(FIRST * 100) * len(costs) // 100)]
    assert [costs[path] for path in first] == sorted((costs[path] for path in first), reverse=True)
    rest = [running.index(path) for path in order[len(first) :]]
    assert rest == sorted(rest)


def test_a_block_costs_what_its_own_quantization_changes(small_model: Path) -> None:
    """One whose weights have boundaries far too wide costs more than it did, the others cost the same."""
    part = load_model(small_model).part("vae_decoder")
    torch.manual_seed(0)
    inputs = [(torch.randn(1, 4, 16, 16),)]
    spec, pairs = QuantSpec(method="smoothquant"), Pairs(inputs, [])
    with PartTrainer(part, spec, inputs, pairs, Saved(None, ALONE)) as training:
        search(training, PartQuant())
        blocks = {path: block for path, block in blocks_in_order(part, inputs[0]) if learned_ports(block)}
        before = block_costs(part, blocks, inputs, ALONE)
        spoiled = list(blocks)[1]
        for site in (found for found in blocks[spoiled].modules() if isinstance(found, Site)):
            learner = site.quantizer
            assert isinstance(learner, LearnedSite)
            learner.base_boundary, learner.following = torch.full_like(learner.unit, 9.0), False
        after = block_costs(part, blocks, inputs, ALONE)
    assert after[spoiled] > 10 * before[spoiled]
    assert all(after[path] == before[path] for path in blocks if path != spoiled)


def test_what_is_left_is_foreseen_by_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    times = {path: BlockTiming(begins, begins + 1.0) for path, begins in (("a", 0.0), ("b", 1.0))}
    schedule = Schedule("part", QuantSpec(let_steps=10, lbq_steps=0), times, 4, ["a", "b", "c"], ["a", "b"], ALONE)
    schedule.begin()
    schedule.begin_steps()
    schedule.begun -= 44
    schedule.learning -= 40
    schedule.end_steps()
    schedule.end("a")  # 4·10 + 4·(0 + 1); b is expected to take 4·10 + 4·(1 + 2)
    expected = "part: block 2 of 3, a: 4.00 s a step, 44 s in all; about 52 s left of 2 min for part"
    assert capsys.readouterr().err.strip() == expected


def test_a_share_learns_the_costliest_and_leaves_the_others_as_searched(
    tmp_path: Path, learned: list[str]
) -> None:
    model = load_model(networks.write_small("SwinIR", tmp_path / "model.safetensors"))
    files = sorted(IMAGES.iterdir())[:1]
    found = calibrate_model(model, QuantSpec(**BLOCK, block_share=0.3), files)  # type: ignore[arg-type]
    start = calibrate_model(model, QuantSpec(**{**BLOCK, "method": "search"}), files)  # type: ignore[arg-type]
    (part,) = model.parts
    count = len(outermost_blocks(part))
    assert 0 < len(learned) < count / 2
    before, after = tensors_of(start.quant), tensors_of(found.quant)
    changed = after.keys() - {key for key, value in before.items() if torch.equal(value, after[key])}
    assert changed and all(any(key.startswith(f"{title}.") for title in learned) for key in changed)


def calibrate(model: Path, images: Path, cache: Path, spec: Path) -> list[str]:
    named = ["--images", str(images), "--limit", "1", "--spec", str(spec), "--cache", str(cache)]
    return ["calibrate", str(model), *named, "--device", "cpu"]


def only(cache: Path) -> Calibration:
    (folder,) = (path.parent for path in cache.glob("*/manifest.json"))
    return Calibration.load(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process there without a word")
def test_a_run_that_is_ended_says_how_to_go_on_and_does(
    small_model: Path, tmp_path: Path, learned: list[str]
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({**BLOCK, "let_steps": 3}))
    calibrating = calibrate(small_model, TINY, tmp_path / "cache", spec)
    words = [sys.executable, "-m", "passionsr_trt.runtime.main", *calibrating]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stderr is not None
        said = ""
        while "block 2 of" not in said:
            letter = process.stderr.read(1)
            assert letter, said
            said += letter
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
    assert process.returncode == 130 and "the same command goes on from there" in said, said
    assert "Traceback" not in said and not list((tmp_path / "cache").glob("*/manifest.json"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the first run had
    try:
        assert main(calibrating) == 0
        again = len(learned)
        assert main(calibrate(small_model, TINY, tmp_path / "whole", spec)) == 0
    finally:
        torch.set_num_threads(threads)
    assert 0 < again <= (len(learned) - again) - 2, "two blocks were done"
    assert only(tmp_path / "cache").digest == only(tmp_path / "whole").digest
