"""Specs, model folders and calibration images that are wrong; only where PyTorch is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.spec import QuantSpec
from PIL import Image

from tests.hostile.bench import Bench, linked_copy, pattern
from tests.hostile.bundles import GONE, TEXT_EDITS, replacements
from tests.hostile.harness import Case, Trial

KIND = "models"
LOADING = "passionsr_trt.export.families.registry.load_model"
CALIBRATING = "passionsr_trt.export.calibrate.pipeline.calibrate"
BOUNDARIES = "passionsr_trt.export.calibrate.steps.observe.activation_boundary"
ONE_STEP = {"timestep": 999, "prediction": "epsilon", "scaling_factor": 0.18215, "upscale": 2, "posterior": "mode"}
SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "trained_betas": None, "rescale_betas_zero_snr": False,
}  # fmt: skip
UNSET = ("trained_betas", "rescale_betas_zero_snr")  # whatever counts as nothing is nothing
NEVER = {"NaN", "infinite", "huge", "half", "negative"}  # of numbers whose range is known


def cases() -> Iterator[Case]:
    yield from specs()
    yield from folders()
    yield from images()


def specs() -> Iterator[Case]:
    """Every key of QuantSpec, and files that are no spec."""
    for key, value in QuantSpec().to_json().items():
        for how, (other, forbidden) in replacements(value).items():
            wrong = forbidden or how in ("NaN", "infinite", "huge") or (how == "half" and isinstance(value, int))
            text = changed({key: value}, key, other)
            yield Case(f"spec {key} {how}", KIND, partial(_spec, text, False if wrong else None))
    for label, edit in TEXT_EDITS.items():
        if label not in ("another kind", "latin-1"):
            edited = edit('{"schema_version": 1, "percentile": 99.99, "upscale": 2, "files": {}}')
            yield Case(f"spec file {label}", KIND, partial(_spec, edited, False))
    for label in ("a folder", "a FIFO", "gone", "dangling", "/dev/zero"):
        yield Case(f"spec file is {label}", KIND, partial(_spec_place, label))


def changed(data: dict[str, Any], key: str, value: Any) -> str:
    other = {name: entry for name, entry in data.items() if name != key or value is not GONE}
    if value is not GONE:
        other[key] = value
    return json.dumps(other)


def _spec(text: str | bytes, accept: bool | None, folder: Path, bench: Bench) -> Trial:
    (folder / "spec.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return calibrate(folder, bench.model, accept, LOADING, "--spec", "spec.json")


def _spec_place(label: str, folder: Path, bench: Bench) -> Trial:
    put(folder / "spec.json", label)
    return calibrate(folder, bench.model, False, LOADING, "--spec", "spec.json")


def put(path: Path, label: str) -> None:
    """Something that is no file."""
    if label == "a folder":
        path.mkdir()
    elif label == "a FIFO":
        os.mkfifo(path)
    elif label != "gone":
        path.symlink_to(label if label.startswith("/") else "nowhere")


def calibrate(folder: Path, model: Path, accept: bool | None, stop: str, *more: str) -> Trial:
    import torch

    torch.set_num_threads(1)
    given = folder / "images"
    if not given.exists():
        given.mkdir()
        pattern((64, 64)).save(given / "a.png")
    argv = ["calibrate", str(model), "--images", "images", "--cache", "cache", *more]
    return Trial(argv, accept, stop=stop, may=("cache",))


def folders() -> Iterator[Case]:
    """Every key of a model's own files, and of the configs those that decide its shape."""
    for file, known in (("one_step.json", ONE_STEP), ("scheduler/scheduler_config.json", SCHEDULER)):
        for key, value in known.items():
            for how, (other, forbidden) in replacements(value).items():
                wrong = forbidden or how in NEVER - ({"half"} if isinstance(value, float) else set())
                yield _edited(
                    f"{file} {key} {how}", file, {key: other}, False if wrong and key not in UNSET else None
                )
    for key, values in BETAS.items():
        for value in values:
            yield _edited(f"scheduler {key} = {value}", "scheduler/scheduler_config.json", {key: value}, False)
    for part, keys in SHAPES.items():
        for key, values in keys.items():
            for value in values:
                label = f"{part} {key} = {str(value)[:40]}"
                yield _edited(label, f"{part}/config.json", {key: value}, None)
    for file in (*FILES, "one_step.json"):
        for label, edit in TEXT_EDITS.items():
            if label in ("empty", "binary", "not an object", "nested lists", "nested objects", "NaN", "twice"):
                yield Case(f"{file} {label}", KIND, partial(_text, file, edit))
        for label in ("a folder", "a FIFO", "gone", "a loop", "/dev/zero"):
            yield Case(f"{file} is {label}", KIND, partial(_placed, file, label))


FILES = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
BETAS: dict[str, tuple[Any, ...]] = {
    "beta_start": (-0.1, 1.5, 1e300, "0.1"), "beta_end": (-0.1, 1.0, 2.0, 1e300), "num_train_timesteps": (0, -5,
    10),
    "beta_schedule": ("cosine", ["linear"], {}, 1), "trained_betas": ([0.1, 0.2],),
    "rescale_betas_zero_snr": (True,),
}  # fmt: skip
WRONG: tuple[Any, ...] = (0, -1, 10**9, 2**70, 0.5, None, "x", True, [], {}, [0], [10**9, 10**9], [None, None])
SHAPES: dict[str, dict[str, tuple[Any, ...]]] = {
    "unet": {
        key: WRONG
        for key in (
            "in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim",
            "attention_head_dim", "norm_num_groups", "down_block_types", "up_block_types", "act_fn", "norm_eps",
            "use_linear_projection", "_class_name", "conv_in_kernel", "time_embedding_type", "class_embed_type",
        )
    },
    "vae": {
        key: WRONG
        for key in (
            "latent_channels", "block_out_channels", "norm_num_groups", "layers_per_block", "scaling_factor",
            "_class_name", "family", "down_block_types",
        )
    },
}  # fmt: skip


def _edited(name: str, file: str, values: dict[str, Any], accept: bool | None) -> Case:
    return Case(name, KIND, partial(_edit, file, values, accept))


def _edit(file: str, values: dict[str, Any], accept: bool | None, folder: Path, bench: Bench) -> Trial:
    copy = linked_copy(bench.model, folder / "model")
    data = json.loads((copy / file).read_text(encoding="utf-8"))
    for key, value in values.items():
        if value is GONE:
            data.pop(key, None)
        else:
            data[key] = value
    (copy / file).unlink()
    (copy / file).write_text(json.dumps(data), encoding="utf-8")
    return calibrate(folder, copy.relative_to(folder), accept, CALIBRATING)


def _text(file: str, edit: Callable[[str], str | bytes], folder: Path, bench: Bench) -> Trial:
    copy = linked_copy(bench.model, folder / "model")
    edited = edit((copy / file).read_text(encoding="utf-8"))
    (copy / file).unlink()
    (copy / file).write_bytes(edited.encode() if isinstance(edited, str) else edited)
    return calibrate(folder, copy.relative_to(folder), False, CALIBRATING)


def _placed(file: str, label: str, folder: Path, bench: Bench) -> Trial:
    copy = linked_copy(bench.model, folder / "model")
    (copy / file).unlink()
    if label == "a loop":
        (copy / file).symlink_to((copy / file).name)
    else:
        put(copy / file, label)
    return calibrate(folder, copy.relative_to(folder), False, CALIBRATING)


def images() -> Iterator[Case]:
    """--images with what is no picture: said and passed over; refused where there is no other."""
    for label in ("a FIFO", "a folder", "dangling", "/dev/zero", "1×1", "text", "empty", "truncated", "alone"):
        yield Case(f"images with {label}", KIND, partial(_images, label))
    for label in ("a file", "gone", "a FIFO", "dangling", "nothing in it"):
        yield Case(f"images are {label}", KIND, partial(_no_images, label))


def _images(label: str, folder: Path, bench: Bench) -> Trial:
    given = folder / "images"
    given.mkdir()
    pattern((64, 64)).save(given / "a.png")
    path = given / "b.png"
    if label == "alone":
        (given / "a.png").unlink()
        path.mkdir()
    elif label == "1×1":
        Image.new("RGB", (1, 1)).save(path)
    elif label in ("text", "empty", "truncated"):
        whole = (given / "a.png").read_bytes()
        path.write_bytes({"text": b"no picture", "empty": b"", "truncated": whole[:90]}[label])
    else:
        put(path, label)
    accept = label != "alone"
    return calibrate(folder, bench.model, accept, BOUNDARIES)


def _no_images(label: str, folder: Path, bench: Bench) -> Trial:
    given = folder / "images"
    if label == "a file":
        given.write_text("")
    elif label == "nothing in it":
        given.mkdir()
    trial = calibrate(folder, bench.model, False, BOUNDARIES) if given.exists() else None
    if trial is None:
        trial = calibrate(folder, bench.model, False, BOUNDARIES)
        (given / "a.png").unlink()
        given.rmdir()
        put(given, label)
    return trial
