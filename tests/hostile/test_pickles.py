"""Weights that are damaged or of other kinds, pickles that would run something; only where PyTorch is."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import HAS_TORCH
from tests.hostile.bench import rewrite
from tests.hostile.encoded import damaged, drawn
from tests.hostile.manifests import PLACES
from tests.hostile.models import calibrate_changed
from tests.hostile.trial import Trial

if HAS_TORCH:
    import torch

Make = Callable[[], bytes]
of_options = pytest.mark.parametrize("option", ("--text-embedding", "--lora"))
of_files = pytest.mark.parametrize(
    "file", ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_embedding")
)


class Runs:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], tuple(self.call[1:])


def saved(content: Any, **options: Any) -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def text() -> Any:
    return torch.zeros(1, 7, 24)


def contents() -> dict[str, Make]:
    """None of them is what is wanted, and none may do anything."""
    found: dict[str, Make] = {}
    for name, call in {
        "touch": (os.system, "touch pwned"), "exec": (exec, "open('pwned','w')"), "write": (Path("pwned").touch,),
        "exit": (os._exit, 3), "system exit": (exit, 3), "interrupt": (os.kill, os.getpid(), 2),
    }.items():  # fmt: skip
        found[f"that runs {name}"] = partial(saved, Runs(*call))
        found[f"that runs {name}, old"] = partial(saved, Runs(*call), _use_new_zipfile_serialization=False)
        found[f"that runs {name}, bare"] = partial(pickle.dumps, Runs(*call), 2)
    values: dict[str, Any] = {
        "None": None, "a number": 3, "a string": "x" * 100, "an empty dict": {}, "a list": [],
        "nested": nested(50),
        "two tensors": {"a": text(), "b": text()}, "no batch": text()[0], "a batch of 2": torch.zeros(2, 7, 24),
        "another width": torch.zeros(1, 7, 25), "no tokens": torch.zeros(1, 0, 24), "integers": text().long(),
        "complex": text().to(torch.complex64), "booleans": text().bool(), "NaN": text() * float("nan"),
        "infinite": text() + float("inf"), "sparse": text().to_sparse(), "meta": text().to("meta"),
        "strings": {"a": "b"},
        "a module": torch.nn.Linear(2, 2), "a scalar": torch.tensor(1.0),
        "expanded": torch.zeros(1).expand(1, 10**6, 24), "bytes": b"x" * 100, "itself": itself(),
    }  # fmt: skip
    for label, value in values.items():
        found[label] = partial(saved, value)
    found |= {
        "empty": bytes, "text": lambda: b"not a pickle\n", "a zip": lambda: b"PK\3\4" + bytes(60),
        "an HTML page": lambda: b"<!DOCTYPE html>" * 9, "an LFS pointer": lambda: b"version https://git-lfs\n",
        "many frames": lambda: b"\x80\4" + b"(" * 10**6 + b".",
        "a long string": lambda: b"\x80\4\x8d" + b"\xff" * 8,
        "nested tuples": lambda: b"\x80\4)" + b"\x85" * 10**5 + b".",
        "endless memo": lambda: b"\x80\2cos\nsystem\n.",
    }  # fmt: skip
    return found


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def itself() -> Any:
    value: dict[str, Any] = {}
    value["state_dict_unet"] = value
    return value


def loras() -> dict[str, Make]:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.ones(4, 32) * 0.01, torch.ones(32, 4) * 0.01
    keys = f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight"
    good = dict(zip(keys, (down, up), strict=True))
    values: dict[str, Any] = {
        "no B": {keys[0]: down}, "no A": {keys[1]: up}, "another rank": {**good, keys[1]: torch.ones(32, 5)},
        "another shape": {keys[0]: torch.ones(4, 33), keys[1]: up}, "unknown weights": {
            "x.lora_A.default.weight": down, "x.lora_B.default.weight": up},
        "NaN": {keys[0]: down * float("nan"), keys[1]: up}, "infinite": {keys[0]: down + float("inf"),
        keys[1]: up},
        "complex": {key: value.to(torch.complex64) for key, value in good.items()},
        "lists": {key: [1.0] for key in keys},
        "strings": dict.fromkeys(keys, "x"), "rank 0": {keys[0]: torch.ones(0, 32), keys[1]: torch.ones(32, 0)},
        "scalars": dict.fromkeys(keys, torch.tensor(1.0)), "numbers as keys": {1: down, 2: up},
        "sparse": {key: value.to_sparse() for key, value in good.items()}, "meta": {
            key: value.to("meta") for key, value in good.items()},
        "conv_in of another shape": {**good, "conv_in.weight": torch.ones(3)}, "conv_in NaN": {
            **good, "conv_in.bias": torch.full((32,), float("nan"))},
    }  # fmt: skip
    found: dict[str, Make] = {
        label: partial(saved, {"state_dict_unet": value, "rank_unet": 4}) for label, value in values.items()
    }
    for label, rank in {"text": "4", "huge": 2**80, "list": [4], "NaN": float("nan"), "other": 5}.items():
        found[f"rank {label}"] = partial(saved, {"state_dict_unet": good, "rank_unet": rank})
    return found


def safetensors() -> dict[str, Make]:
    """Files that are none."""

    def header(content: Any, length: int | None = None) -> bytes:
        head = content if isinstance(content, bytes) else json.dumps(content).encode()
        return struct.pack("<Q", len(head) if length is None else length) + head + bytes(64)

    def entry(kind: str, shape: list[int], offsets: list[int]) -> dict[str, Any]:
        return {"text_embedding": {"dtype": kind, "shape": shape, "data_offsets": offsets}}

    return {
        "empty": bytes, "short": lambda: b"\1\2\3", "long header": partial(header, {}, 2**62),
        "no JSON": partial(header, b"x" * 40), "a list": partial(header, []), "deep": partial(header,
        b"[" * 10**5),
        "unknown type": partial(header, entry("F3", [1], [0, 4])), "beyond": partial(header, entry("F32", [99],
        [0, 396])),
        "negative": partial(header, entry("F32", [-1], [0, 4])), "backwards": partial(header, entry("F32", [1],
        [4, 0])),
        "huge": partial(header, entry("F32", [2**40, 2**40], [0, 4])), "nothing in it": partial(header, {}),
        "a pickle": partial(pickle.dumps, Runs(os.system, "touch pwned")),
        "noise": partial(random.Random(9).randbytes, 4000),
    }  # fmt: skip


def imported(trial: Trial, option: str, name: str) -> None:
    """A file of weights is imported; a model of NaN is none."""
    (trial.folder / "good.pt").write_bytes(saved(text()))
    files = {"--text-embedding": "good.pt", option: name}
    words = [word for pair in files.items() for word in pair]
    harmless = name.endswith(".pt") and option == "--text-embedding"  # a flipped bit of a zip may be anything
    accept = None if harmless else False
    trial.command("import-model", trial.bench.model, "-o", "out", *words, accept=accept, seconds=30)
    assert not unsound(trial.folder / "out")


def unsound(model: Path) -> str:
    from safetensors.torch import load_file

    for path in model.rglob("*.safetensors"):
        for key, tensor in load_file(path).items():
            if not tensor.isfinite().all() or not tensor.numel():
                return f"{path.name}: {key} holds no numbers"
    return ""


@of_options
@pytest.mark.parametrize("label", contents() if HAS_TORCH else ())
def test_a_file_of_anything_else(trial: Trial, option: str, label: str) -> None:
    (trial.folder / "file.pt").write_bytes(contents()[label]())
    imported(trial, option, "file.pt")


@of_options
@drawn(20)
@given(data=st.data())
def test_a_damaged_file(trials: Callable[[], AbstractContextManager[Trial]], option: str, data: Any) -> None:
    noise = data.draw(st.booleans())
    content = data.draw(st.binary(max_size=1000)) if noise else damaged(saved(text()), data.draw)
    with trials() as trial:
        (trial.folder / "file.pt").write_bytes(content)
        imported(trial, option, "file.pt")


@of_options
@pytest.mark.parametrize("label", ("a folder", "a FIFO", "gone", "dangling", "/dev/zero"))
def test_no_file(trial: Trial, option: str, label: str) -> None:
    PLACES[label](trial.folder / "file.pt")
    imported(trial, option, "file.pt")


@of_options
@pytest.mark.parametrize("make", safetensors().values(), ids=safetensors())
def test_safetensors_that_are_none(trial: Trial, option: str, make: Make) -> None:
    (trial.folder / "file.safetensors").write_bytes(make())
    imported(trial, option, "file.safetensors")


@pytest.mark.parametrize("label", loras() if HAS_TORCH else ())
def test_a_wrong_lora(trial: Trial, label: str) -> None:
    (trial.folder / "file.pkl").write_bytes(loras()[label]())
    imported(trial, "--lora", "file.pkl")


@of_files
@pytest.mark.parametrize("make", safetensors().values(), ids=safetensors())
def test_weights_that_are_none(trial: Trial, file: str, make: Make) -> None:
    calibrate_changed(trial, f"{file}.safetensors", lambda path: rewrite(path, make()), False)


EDITS: dict[str, Callable[[Any], Any]] = {
    "NaN": lambda tensor: tensor * float("nan"),
    "infinities": lambda tensor: tensor + float("inf"),
    "integers": lambda tensor: tensor.long(),
    "complex numbers": lambda tensor: tensor * (1 + 0j),
    "booleans": lambda tensor: tensor.bool(),
    "bytes": lambda tensor: tensor.byte(),
    "another shape": lambda tensor: tensor.flatten(),
    "nothing": lambda tensor: tensor[:0],
}


@of_files
@pytest.mark.parametrize("label", EDITS)
def test_weights_of_a_wrong_kind(trial: Trial, file: str, label: str) -> None:
    from safetensors.torch import load_file, save_file

    def change(path: Path) -> None:
        state = load_file(path)
        name = next(key for key, tensor in state.items() if tensor.dim() > 1)
        state[name] = EDITS[label](state[name]).contiguous()
        path.unlink()
        save_file(state, path)

    calibrate_changed(trial, f"{file}.safetensors", change, False)
