"""State dicts of published files: what lies around them comes off, entries are found by path, layers by shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.weights import is_plain, read_checkpoint
from torch import Tensor, nn

HOLDERS = (
    "params_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "params",
    "model_state_dict",
    "model",
)  # best first
PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")
State = Mapping[str, Tensor]


def read_state(
    path: Path,
    needed: Sequence[str],
    expected: str,
    *,
    ignored: tuple[str, ...] = (),
    is_whole: Callable[[str], bool] = lambda _name: False,
) -> dict[str, Tensor]:
    """A file's weights, float32, without HOLDERS and PREFIX; UserError in one line for any other file.

    needed: names that tell what it is, which `expected` says. ignored: how names begin that are left out.
    is_whole: of a name, does it hold whole numbers?
    """
    found = read_checkpoint(path, whole=True)
    for _depth in range(2):
        if isinstance(found, dict):
            found = next((found[key] for key in HOLDERS if isinstance(found.get(key), dict)), found)
    state: dict[str, Tensor] = {}
    for key, tensor in found.items() if isinstance(found, dict) else ():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            continue
        name = PREFIX.sub("", key)
        if name.startswith(ignored):
            continue
        whole = is_whole(name)
        if not (_is_plain_whole(tensor) if whole else is_plain(tensor)):
            raise UserError(f"{path}: {key} is no plain tensor of numbers", "expected trained weights")
        state[name] = tensor if whole else tensor.to(torch.float32)
    if missing := [name for name in needed if name not in state]:
        raise UserError(f"{path}: {missing[0]} is missing", f"expected {expected}")
    return state


def _is_plain_whole(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.dtype == torch.int64


def below(state: State, path: str) -> dict[str, Tensor]:
    """The entries under a path, without it."""
    return {key[len(path) + 1 :]: tensor for key, tensor in state.items() if key.startswith(f"{path}.")}


def listed(state: State, path: str) -> list[dict[str, Tensor]]:
    """The entries under path.0, path.1, …"""
    indices = {int(found[1]) for key in state if (found := re.match(rf"{re.escape(path)}\.(\d+)\.", key))}
    return [below(state, f"{path}.{index}") for index in sorted(indices)]


def conv_of(weight: Tensor, padding: int = 0, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution of a weight's shape, without its values."""
    outputs, inputs, height, width = weight.shape
    return nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=bias)


def linear_of(weight: Tensor) -> nn.Linear:
    """A linear of a weight's shape, without its values."""
    return nn.Linear(weight.shape[1], weight.shape[0])
