"""Weights that are damaged or of other kinds, pickles that would run something; only where PyTorch is."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.hostile.bench import Bench, linked_copy
from tests.hostile.harness import Case, Trial
from tests.hostile.models import CALIBRATING, calibrate, put

KIND = "pickles"
Make = Callable[[], bytes]


def cases() -> Iterator[Case]:
    for option in ("--text-embedding", "--lora"):
        for label, make in contents().items():
            yield Case(f"{option} {label}", KIND, partial(_imported, option, "file.pt", make))
        for label in ("a folder", "a FIFO", "gone", "dangling", "/dev/zero"):
            yield Case(f"{option} is {label}", KIND, partial(_placed, option, label))
        for label, make in safetensors().items():
            yield Case(f"{option} safetensors {label}", KIND, partial(_imported, option, "file.safetensors", make))
    for label, make in loras().items():
        yield Case(f"--lora of {label}", KIND, partial(_imported, "--lora", "file.pkl", make))
    for file in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_embedding"):
        for label, make in safetensors().items():
            yield Case(f"{file} {label}", KIND, partial(_weights, f"{file}.safetensors", make))
        for label in EDITS:
            yield Case(f"{file} of {label}", KIND, partial(_tensors, f"{file}.safetensors", label))


class Runs:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], tuple(self.call[1:])


def saved(content: Any, **options: Any) -> bytes:
    import torch

    buffer = BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def text() -> Any:
    import torch

    return torch.zeros(1, 7, 24)


def contents() -> dict[str, Make]:
    """None of them is what is wanted, and none may do anything."""
    import torch

    good = saved(text())
    found: dict[str, Make] = {
        f"cut at {share}": partial(lambda at: good[:at], int(len(good) * share)) for share in SHARES
    }
    for seed in range(6):
        found[f"noise {seed}"] = partial(random.Random(seed).randbytes, 10 ** (seed % 3 + 1))
        found[f"flipped {seed}"] = partial(flip, good, seed)
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


SHARES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def itself() -> Any:
    value: dict[str, Any] = {}
    value["state_dict_unet"] = value
    return value


def flip(data: bytes, seed: int) -> bytes:
    at = random.Random(seed).randrange(len(data))
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def loras() -> dict[str, Make]:
    import torch

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


def _imported(option: str, name: str, make: Make, folder: Path, bench: Bench) -> Trial:
    (folder / name).write_bytes(make())
    return import_model(folder, bench, option, name)


def _placed(option: str, label: str, folder: Path, bench: Bench) -> Trial:
    put(folder / "file.pt", label)
    return import_model(folder, bench, option, "file.pt")


def import_model(folder: Path, bench: Bench, option: str, name: str) -> Trial:
    (folder / "good.pt").write_bytes(saved(text()))
    files = {"--text-embedding": "good.pt", option: name}
    argv = ["import-model", str(bench.model), "-o", "out", *(word for pair in files.items() for word in pair)]
    harmless = name.endswith(".pt") and option == "--text-embedding"  # a flipped bit of a zip may be anything
    return Trial(argv, None if harmless else False, lambda _outcome: unsound(folder / "out"), seconds=30)


def unsound(model: Path) -> str:
    """A model of NaN is none."""
    from safetensors.torch import load_file

    for path in model.rglob("*.safetensors"):
        for key, tensor in load_file(path).items():
            if not tensor.isfinite().all() or not tensor.numel():
                return f"{path.name}: {key} holds no numbers"
    return ""


def _weights(file: str, make: Make, folder: Path, bench: Bench) -> Trial:
    copy = linked_copy(bench.model, folder / "model")
    (copy / file).unlink()
    (copy / file).write_bytes(make())
    return calibrate(folder, copy.relative_to(folder), False, CALIBRATING)


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


def _tensors(file: str, label: str, folder: Path, bench: Bench) -> Trial:
    from safetensors.torch import load_file, save_file

    copy = linked_copy(bench.model, folder / "model")
    state = load_file(copy / file)
    name = next(key for key, tensor in state.items() if tensor.dim() > 1)
    state[name] = EDITS[label](state[name]).contiguous()
    (copy / file).unlink()
    save_file(state, copy / file)
    return calibrate(folder, copy.relative_to(folder), False, CALIBRATING)
