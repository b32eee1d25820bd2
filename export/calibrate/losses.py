"""What a stage of DQC makes small.

| loss       | formula                                                                               |
| ---------- | ------------------------------------------------------------------------------------- |
| `output`   | ‖O − O_q‖² / ‖O‖²                                                                      |
| `features` | ‖O − O_q‖₁ / ‖O‖₁ + λ·mean over blocks of ‖F/‖F‖₂ − F_q/‖F_q‖₂‖², 2DQuant's DQC loss |

O: a module's output, F: what its blocks give. 2DQuant divides both terms by C·H·W; here they are relative, so that
λ means the same for every network and crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from passionsr_trt.export.quantize.hooks import watching_outputs
from passionsr_trt.export.quantize.modes import Mode, in_mode
from torch import Tensor, nn


class Loss(Protocol):
    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, Tensor]:
        """(mean squared error of the module's output, the loss), both scalars."""


def output_loss(module: nn.Module, inputs: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, Tensor]:
    error = nn.functional.mse_loss(module(*inputs), target)
    return error, error / target.square().mean().clamp_min(1e-12)


@dataclass(frozen=True)
class FeatureLoss:
    """The float twin's features are computed anew in every step, on the inputs of the quantized module."""

    blocks: Sequence[nn.Module]
    weight: float

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, Tensor]:
        with in_mode(module, Mode.FLOAT), torch.no_grad():
            _output, wanted = self._run(module, inputs)
        output, found = self._run(module, inputs)
        loss = (output - target).abs().mean() / target.abs().mean().clamp_min(1e-12)
        directions = [(_direction(a) - _direction(b)).square().sum() for a, b in zip(wanted, found, strict=True)]
        loss = loss + self.weight * torch.stack(directions).mean()
        return nn.functional.mse_loss(output.detach(), target), loss

    def _run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        features: list[Tensor] = []
        with watching_outputs((block, features.append) for block in self.blocks):
            output: Tensor = module(*inputs)
        return output, features


def _direction(features: Tensor) -> Tensor:
    return features / features.norm().clamp_min(1e-12)
