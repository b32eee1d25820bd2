"""Reading a model folder: JSON, safetensors, a digest of all of it; what every family needs."""

from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.json_files import read_object
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.bundle.memory import free_memory
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

KEYS_AT_ONCE = 64
FLOATS = ("F64", "F32", "F16", "BF16")


def folder_digest(folder: Path) -> str:
    """SHA-256 over the relative path and SHA-256 of every .json and .safetensors file of a model."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors"):
            if not path.is_file():  # a pipe would be waited for
                raise UserError(f"{path}: is no file", "expected a part of the model folder")
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that belongs to a model; UserError where it is missing or none."""
    try:
        return read_object(path, "a part of the model folder")
    except FileNotFoundError:
        raise UserError(f"{path}: missing", "expected as part of the model folder") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file as float32 tensors, a part of it at a time: the file's pages are given back.

    UserError where they do not fit into the memory that is free.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            for key in keys:
                if (kind := file.get_slice(key).get_dtype()) not in FLOATS:
                    raise UserError(f"{path}: {key} is {kind}", f"expected one of {', '.join(FLOATS)}")
            needed = sum(4 * prod(file.get_slice(key).get_shape()) for key in keys)
        if needed > (free := free_memory()):
            raise UserError(
                f"{path}: {needed / 2**30:.1f} GiB of weights in float32",
                f"{free / 2**30:.1f} GiB of memory are free",
                "end other programs, or take a machine with more",
            )
        for start in range(0, len(keys), KEYS_AT_ONCE):
            with safe_open(path, framework="pt") as file:
                for key in keys[start : start + KEYS_AT_ONCE]:
                    tensors[key] = file.get_tensor(key).to(torch.float32)
    except FileNotFoundError:
        raise UserError(f"{path}: missing", "expected the weights there") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error})", "expected undamaged weights", "copy it again"
        ) from None
    return tensors


def load_checked(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """load_state_dict that names the first missing, unknown or misshapen key."""
    expected = module.state_dict()
    if missing := sorted(set(expected) - set(state)):
        raise UserError(f"{source}: {missing[0]} is missing ({len(missing)} in all)", "expected per config.json")
    if unknown := sorted(set(state) - set(expected)):
        raise UserError(f"{source}: unknown key {unknown[0]!r} ({len(unknown)} in all)", "expected per config")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise UserError(
                f"{source}: {key} has shape {list(tensor.shape)}", f"expected {list(expected[key].shape)}"
            )
    if not any(bool(tensor.any()) for tensor in state.values()):
        raise UserError(f"{source}: every weight is 0", "expected a trained model")
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(False)
