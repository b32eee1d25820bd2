"""Reading a model folder: JSON, safetensors, a digest of all of it; what every family needs."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.bundle.records import read_object
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.common.free_memory import free_memory
from passionsr_trt.export.families.contents import PICKLE, SAFETENSORS, refuse_other, refused_pickle
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

KEYS_AT_ONCE = 64
FLOATS = ("F64", "F32", "F16", "BF16")
WHOLE = ("I64", "I32", "I16", "I8", "U8", "BOOL")


@contextmanager
def must_run(what: str, expected: str) -> Iterator[None]:
    """UserError for whatever a model of the right names and shapes raises as it is built and run."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be run ({reason_of(error)})", expected) from error


def folder_digest(folder: Path) -> str:
    """SHA-256 over the relative path and SHA-256 of every .json and .safetensors file of a model."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors"):
            if not path.is_file():  # a pipe would be waited for
                raise UserError(f"{path}: is no file", "expected a part of the model folder")
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


def model_digest(path: Path) -> str:
    """SHA-256 of a model: of its folder's files, or of the one file that it is."""
    return sha256(path) if path.is_file() else folder_digest(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that belongs to a model; UserError where it is missing or none."""
    try:
        return read_object(path, "a part of the model folder")
    except FileNotFoundError:
        raise UserError(f"{path}: missing", "expected as part of the model folder") from None


def read_weights(path: Path, whole: bool = False) -> dict[str, Tensor]:
    """A safetensors file as float32 tensors, a part of it at a time: the file's pages are given back.

    whole: whole numbers are taken as well, as they are. UserError where they do not fit into free memory.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            for key in keys:
                kinds = (*FLOATS, *WHOLE) if whole else FLOATS
                if (kind := file.get_slice(key).get_dtype()) not in kinds:
                    raise UserError(f"{path}: {key} is {kind}", f"expected one of {', '.join(kinds)}")
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
                    tensor = file.get_tensor(key)
                    tensors[key] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    except FileNotFoundError:
        raise UserError(f"{path}: missing", "expected the weights there") from None
    except (SafetensorError, OSError) as error:
        if path.is_file():
            refuse_other(path, SAFETENSORS)
        raise UserError(
            f"{path}: not a whole safetensors file ({error})", "expected undamaged weights", "copy it again"
        ) from None
    return tensors


def read_checkpoint(path: Path, whole: bool = False) -> Any:
    """What a .safetensors file or a pickle of plain tensors holds; UserError for any other pickle."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file", "expected a checkpoint")
    if path.suffix == ".safetensors":
        return read_weights(path, whole)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "expected a checkpoint", "look at its name and folder") from None
    except Exception as error:  # a damaged pickle raises anything
        refuse_other(path, PICKLE)
        if isinstance(error, pickle.UnpicklingError):
            raise refused_pickle(path, error) from None
        reason = reason_of(error).partition(". ")[0]
        raise UserError(f"{path}: cannot be read ({reason})", "expected a whole checkpoint") from None


def tensor_names(path: Path) -> list[str]:
    """Names in a checkpoint and in dictionaries one level down, without numbers; none where it is unreadable.

    Why it is, `read_checkpoint` says.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # a damaged pickle raises anything
        return []
    if not isinstance(found, dict):
        return []
    inner = [key for value in found.values() if isinstance(value, dict) for key in value]
    return [key for key in (*found, *inner) if isinstance(key, str)]


def is_plain(tensor: Tensor) -> bool:
    """Numbers that a weight may be: there, real, finite, not none at all."""
    stored = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
    return stored and tensor.numel() > 0 and bool(torch.isfinite(tensor).all())


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
