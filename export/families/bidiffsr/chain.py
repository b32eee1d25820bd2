"""The parts of a BI-DiffSR model: a DDIM step each, wired and proved.

    lr, noise → unet_10 → x9;  lr, x9 → unet_9 → x8;  …;  lr, x1 → unet_1 → picture

Proof: ‖a − b‖₂ / ‖a‖₂ ≤ 1e-4 of every step against the model as its authors define it, or FoldError. In float64:
where a sum is near 0 the last bit decides its sign, and float32's orders of summing would decide some differently.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.export.families.bidiffsr import reference
from passionsr_trt.export.families.bidiffsr.sampler import Ddim, Step
from passionsr_trt.export.families.bidiffsr.unet import (
    UNET_ABSORB,
    Block,
    Down,
    Fusion,
    LastUNet,
    Shared,
    UNet,
    Up,
)
from passionsr_trt.export.model.part import Model, Part, Tensors, smooth_sources
from passionsr_trt.export.model.proof import prove
from torch import Tensor

NAME = "bidiffsr"
BLOCKS = (Block, Down, Up, Fusion)
PROOF = 3, 4  # positions of the deepest level: float64 is slow


@dataclass(frozen=True)
class BinaryModel:
    """The float model as its authors define it."""

    digest: str
    upscale: int
    sampler: Ddim
    unet: reference.BinaryUNet

    def condition(self, lr: Tensor) -> Tensor:
        """lr [B, 3, h, w] in [−1, 1] → its enlargement in [0, 1]'s space, not clipped."""
        return F.interpolate((lr + 1) / 2, scale_factor=float(self.upscale), mode="bicubic", align_corners=False)

    def next(self, step: Step, condition: Tensor, x: Tensor) -> Tensor:
        """x_t → x_{t'}; of the last step the picture, in [0, 1]'s space."""
        eps = self.unet(torch.cat([condition, x], dim=1), step.timestep)
        x0 = (step.x_gain * x - step.eps_gain * eps).clamp(-1, 1)
        return step.kept * x0 + step.added * eps

    @torch.no_grad()
    def reference(self, sources: Tensors) -> dict[str, Tensor]:
        """Every part's output as the model's authors compute it."""
        condition, x, given = self.condition(sources["lr"]), sources["noise"], dict[str, Tensor]()
        for step in self.sampler.run():
            x = given[step.result] = self.next(step, condition, x)
        return {**given, "picture": 2 * x - 1}


@torch.no_grad()
def build_model(model: BinaryModel) -> Model:
    """Fold, wire and prove. Steps share the weights that no constant changed."""
    steps, shared = model.sampler.run(), Shared()
    lr, given = TensorInfo("lr", 3, model.upscale), TensorInfo("noise", 3, 1)
    halvings = sum(isinstance(layer, reference.Down) for layer in model.unet.downs)
    multiple = math.lcm(model.upscale, 2**halvings)
    parts = []
    for step in steps:
        kind = LastUNet if step is steps[-1] else UNet
        unet = kind(model.unet, model.upscale, step, shared).eval()
        result = replace(given, name=step.result)
        parts.append(
            Part(step.name, unet, (lr, given), result, multiple, absorb=UNET_ABSORB, blocks=BLOCKS, decides=True)
        )
        given = result
    built = Model(NAME, model.digest, model.upscale, "none", tuple(parts), model.reference, draws_noise=True)
    prove_steps(model, built)
    return built


def prove_steps(model: BinaryModel, built: Model) -> None:
    """Every part fed by the reference, both in float64; their errors are the model's."""
    exact = replace(model, unet=copy.deepcopy(model.unet).double())
    multiple = built.parts[0].multiple
    size = PROOF[0] * multiple, PROOF[1] * multiple
    sources = {name: x.double() for name, x in smooth_sources(built.parts, size).items()}
    tensors = {**sources, **exact.reference(sources)}
    for part in built.parts:
        twin = replace(part, module=copy.deepcopy(part.module).double())
        built.errors[part.name] = prove(part.name, tensors[part.output.name], twin.run(tensors))
