"""A model folder with one thing changed, and `calibrate` on it as far as it has read what it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.bench import linked_copy, pattern, rewrite
from tests.hostile.manifests import GONE
from tests.hostile.trial import Outcome, Trial

# where each run of `calibrate` is stopped: before it loads the model, before it calibrates, at its first boundary
LOADING = "passionsr_trt.export.families.registry.load_model"
CALIBRATING = "passionsr_trt.export.calibrate.pipeline.calibrate"
BOUNDARIES = "passionsr_trt.export.calibrate.steps.observe.activation_boundary"


def calibrate(
    trial: Trial, accept: bool | None, stop: str, *more: str, model: Path | None = None, images: bool = True
) -> Outcome:
    """images: a good one is put among those that are given."""
    import torch

    torch.set_num_threads(1)
    if images:
        (trial.folder / "images").mkdir(exist_ok=True)
        pattern((64, 64)).save(trial.folder / "images" / "a.png")
    words = ["calibrate", model or trial.bench.model, "--images", "images", "--cache", "cache", *more]
    return trial.command(*words, accept=accept, stop=stop, may=("cache",))


def calibrate_changed(trial: Trial, file: str, change: Callable[[Path], object], accept: bool | None) -> None:
    """Of a model folder one file is changed."""
    copy = linked_copy(trial.bench.model, trial.folder / "model")
    content = (copy / file).read_bytes()
    (copy / file).unlink()
    (copy / file).write_bytes(content)  # the copy's own
    change(copy / file)
    calibrate(trial, accept, CALIBRATING, model=Path("model"))


def edit(values: dict[str, Any], path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    for key, value in values.items():
        data.pop(key, None)
        if value is not GONE:
            data[key] = value
    rewrite(path, json.dumps(data))


def placed(put: Callable[[Path], None], path: Path) -> None:
    path.unlink()
    put(path)
