"""A published checkpoint → the network in it, as spandrel recognises it from its weights alone.

Pickles are read with `weights_only=True`, safetensors as they are; nothing of a file runs.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.common.extras import extra_of, install_hint
from passionsr_trt.export.families.image_network.architectures import EXTRA
from passionsr_trt.export.families.weights import read_checkpoint
from torch import Tensor

Weights = dict[str, Tensor]


def read_network(path: Path) -> Weights:
    """The weights of a checkpoint, out of the dictionaries and prefixes that trainers put around them.

    UserError where the library is missing that knows the architectures.
    """
    try:
        from spandrel import canonicalize_state_dict
    except ImportError as error:
        raise UserError(
            f"image networks need spandrel ({error})",
            "expected it installed",
            install_hint(extra_of("spandrel")),
        ) from None
    found = read_checkpoint(path, whole=True)
    if isinstance(found, dict):
        found = canonicalize_state_dict(found)
    if not isinstance(found, dict) or not found or not all(isinstance(x, Tensor) for x in found.values()):
        raise UserError(f"{path}: holds no weights of a network", "expected names and tensors")
    weights = {}
    for name, tensor in found.items():
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
            if not bool(torch.isfinite(tensor).all()):
                raise UserError(f"{path}: {name} holds what is no number", "expected a trained network")
        weights[str(name)] = tensor
    return weights


def recognise(weights: Weights, source: str) -> Any:
    """spandrel's description of a network, which holds it; UserError where it is none from RGB to RGB."""
    from spandrel import MAIN_REGISTRY, ImageModelDescriptor, UnsupportedModelError

    _add_extra()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            described = MAIN_REGISTRY.load(dict(weights))
    except UnsupportedModelError:
        for name, weight in EXTRA.items():
            if weight in weights:
                raise UserError(
                    f"{source}: this is {name}, which spandrel leaves to spandrel_extra_arches",
                    "expected that installed",
                    "pip install spandrel_extra_arches (it holds code under non-commercial licences)",
                ) from None
        raise UserError(
            f"{source}: of no architecture that spandrel knows", "expected a super-resolution network's weights"
        ) from None
    except Exception as error:  # weights that only look like an architecture's
        raise UserError(
            f"{source}: cannot be read as a network ({reason_of(error)})", "expected whole weights"
        ) from None
    name = described.architecture.id
    if not isinstance(described, ImageModelDescriptor):
        raise UserError(f"{source}: {name} takes more than a picture", "expected an image network")
    if (described.input_channels, described.output_channels) != (3, 3):
        channels = f"{described.input_channels} to {described.output_channels} channels"
        raise UserError(f"{source}: {name} from {channels}", "expected RGB, 3 to 3")
    described.model.eval().requires_grad_(False)
    return described


def _add_extra() -> None:
    """Let spandrel know further architectures where the user has installed them."""
    try:
        from spandrel_extra_arches import install
    except ImportError:
        return
    install(ignore_duplicates=True)


def statement(described: Any) -> dict[str, Any]:
    """What a model folder says of its network."""
    return {"architecture": described.architecture.id, "scale": described.scale}
