"""Specs, model folders and calibration images that are wrong; only where PyTorch is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import COMMITTED
from tests.hostile.bench import pattern, rewrite
from tests.hostile.manifests import GONE, PLACES, TEXT_EDITS, read, replacements
from tests.hostile.models import BOUNDARIES, LOADING, calibrate, calibrate_changed, edit, placed
from tests.hostile.trial import Trial

ONE_STEP = {"timestep": 999, "prediction": "epsilon", "scaling_factor": 0.18215, "upscale": 2, "posterior": "mode"}
SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "trained_betas": None, "rescale_betas_zero_snr": False,
}  # fmt: skip
UNSET = ("trained_betas", "rescale_betas_zero_snr")  # whatever counts as nothing is nothing
NEVER = {"NaN", "infinite", "huge", "half", "negative"}  # of numbers whose range is known


CONFIGS = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
BETAS: dict[str, tuple[Any, ...]] = {
    "beta_start": (-0.1, 1.5, 1e300, "0.1"), "beta_end": (-0.1, 1.0, 2.0, 1e300), "num_train_timesteps": (0, -5,
    10),
    "beta_schedule": ("cosine", ["linear"], {}, 1), "trained_betas": ([0.1, 0.2],),
    "rescale_betas_zero_snr": (True,),
}  # fmt: skip
WRONG: tuple[Any, ...] = (0, -1, 10**9, 2**70, 0.5, None, "x", True, [], {}, [0], [10**9, 10**9], [None, None])
SHAPES = {
    "unet": (
        "in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim",
        "attention_head_dim", "norm_num_groups", "down_block_types", "up_block_types", "act_fn", "norm_eps",
        "use_linear_projection", "_class_name", "conv_in_kernel", "time_embedding_type", "class_embed_type",
    ),
    "vae": (
        "latent_channels", "block_out_channels", "norm_num_groups", "layers_per_block", "scaling_factor",
        "_class_name", "family", "down_block_types",
    ),
}  # fmt: skip


def specs() -> Iterator[Any]:
    """Every key of a spec, and files that are no spec."""
    for key, value in read(COMMITTED / "onnx_int8")["spec"].items():
        for how, (other, forbidden) in replacements(value).items():
            wrong = forbidden or how in ("NaN", "infinite", "huge") or (how == "half" and isinstance(value, int))
            text = json.dumps({} if other is GONE else {key: other})
            yield pytest.param(text, False if wrong else None, id=f"{key} {how}")
    for label, change in TEXT_EDITS.items():
        if label not in ("another kind", "latin-1"):
            text = change('{"schema_version": 1, "percentile": 99.99, "upscale": 2, "files": {}}')
            yield pytest.param(text, False, id=f"file {label}")


@pytest.mark.parametrize(("text", "accept"), list(specs()))
def test_a_wrong_spec(trial: Trial, text: str | bytes, accept: bool | None) -> None:
    rewrite(trial.folder / "spec.json", text)
    calibrate(trial, accept, LOADING, "--spec", "spec.json")


@pytest.mark.parametrize("label", ("a folder", "a FIFO", "gone", "dangling", "/dev/zero"))
def test_a_spec_that_is_no_file(trial: Trial, label: str) -> None:
    PLACES[label](trial.folder / "spec.json")
    calibrate(trial, False, LOADING, "--spec", "spec.json")


def folders() -> Iterator[Any]:
    """Every key of a model's own files, and of the configs those that decide its shape."""

    def changed(name: str, file: str, change: Callable[[Path], None], accept: bool | None) -> Any:
        return pytest.param(file, change, accept, id=f"{file} {name}")

    scheduler = "scheduler/scheduler_config.json"
    for file, known in (("one_step.json", ONE_STEP), (scheduler, SCHEDULER)):
        for key, value in known.items():
            for how, (other, forbidden) in replacements(value).items():
                wrong = forbidden or how in NEVER - ({"half"} if isinstance(value, float) else set())
                accept = False if wrong and key not in UNSET else None
                yield changed(f"{key} {how}", file, partial(edit, {key: other}), accept)
    for key, values in BETAS.items():
        for value in values:
            yield changed(f"{key} = {value}", scheduler, partial(edit, {key: value}), False)
    for part, keys in SHAPES.items():
        for key in keys:
            for value in WRONG:
                yield changed(f"{key} = {value!s:.40}", f"{part}/config.json", partial(edit, {key: value}), None)
    for file in (*CONFIGS, "one_step.json"):
        for label in ("empty", "binary", "not an object", "nested lists", "nested objects", "NaN", "twice"):
            yield changed(label, file, partial(retold, label), False)
        for label in ("a folder", "a FIFO", "gone", "a loop", "/dev/zero"):
            yield changed(f"is {label}", file, partial(placed, PLACES[label]), False)


def retold(label: str, path: Path) -> None:
    rewrite(path, TEXT_EDITS[label](path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("file", "change", "accept"), list(folders()))
def test_a_model_folder_of_one_wrong_file(
    trial: Trial, file: str, change: Callable[[Path], None], accept: bool | None
) -> None:
    calibrate_changed(trial, file, change, accept)


@pytest.mark.parametrize(
    "label", ("a FIFO", "a folder", "dangling", "/dev/zero", "1×1", "text", "empty", "truncated", "alone")
)
def test_what_is_no_picture_among_images_is_passed_over(trial: Trial, label: str) -> None:
    """It is refused where there is no other."""
    path = trial.folder / "images" / "b.png"
    path.parent.mkdir()
    if label == "1×1":
        Image.new("RGB", (1, 1)).save(path)
    elif label == "truncated":
        pattern((64, 64)).save(path)
        rewrite(path, path.read_bytes()[:90])
    elif label in ("text", "empty"):
        path.write_text("no picture" if label == "text" else "")
    else:
        PLACES["a folder" if label == "alone" else label](path)
    calibrate(trial, label != "alone", BOUNDARIES, "--method", "range", images=label != "alone")


@pytest.mark.parametrize("label", ("a file", "gone", "a FIFO", "dangling", "a folder"))
def test_images_that_are_no_folder_or_an_empty_one(trial: Trial, label: str) -> None:
    PLACES.get(label, Path.touch)(trial.folder / "images")
    calibrate(trial, False, BOUNDARIES, "--method", "range", images=False)
