"""A recognised network as a model of one part, proved against what its authors wrote."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import torch
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.image_network.architectures import KNOWN, Architecture, sequential_rows
from passionsr_trt.export.families.image_network.rewriting import as_sites
from passionsr_trt.export.families.image_network.seams import seam_overlap
from passionsr_trt.export.families.weights import must_run
from passionsr_trt.export.model.hooks import watching_outputs
from passionsr_trt.export.model.part import Model, Part, Tensors, proof_size, smooth_sources
from passionsr_trt.export.model.sites import Site
from torch import Tensor, nn

NAME = "image-network"
SCALES = (1, 2, 3, 4, 8, 16)


class Network(nn.Module):
    """lr [B, 3, h, w] in [−1, 1] → picture [B, 3, s·h, s·w] in [−1, 1]; the network itself works in [0, 1]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, lr: Tensor) -> Tensor:
        result: Tensor = self.body(lr * 0.5 + 0.5) * 2 - 1
        return result


@torch.no_grad()
def build_network(described: Any, digest: str, source: str) -> Model:
    """Rewrite, wire and prove."""
    name, scale = described.architecture.id, described.scale
    known = KNOWN.get(name)
    if known is None or known.refused:
        able = sorted(key for key, entry in KNOWN.items() if not entry.refused)
        reason = known.refused if known else f"expected one of {', '.join(able)}"
        raise UserError(f"{source}: {name} cannot be exported", reason)
    if scale not in SCALES:
        raise UserError(f"{source}: enlarges {scale} times", f"expected one of {', '.join(map(str, SCALES))}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = described.model

        def reference(sources: Tensors) -> dict[str, Tensor]:
            return {"picture": original(sources["lr"] * 0.5 + 0.5) * 2 - 1}

        with must_run(f"{source}: {name}", "expected a trained network"):
            part = wire(as_sites(copy.deepcopy(original)), original, known, scale)
            first_last(part)
            model = Model(
                NAME, digest, scale, "none", (part,), reference, overlap=partial(overlap_of, part, scale)
            )
            model.prove(smooth_sources(model.parts, proof_size(part.multiple)))
    return model


def overlap_of(part: Part, scale: int) -> int:
    """Output pixels by which tiles overlap, as far as the network sees; runs it."""
    return seam_overlap(lambda lr: part.run({"lr": lr.to(part.device)}), part.multiple // scale, scale)


def wire(body: nn.Module, original: Any, known: Architecture, scale: int) -> Part:
    multiple = scale * known.multiple(original)
    blocks = tuple({type(module) for module in body.modules() if type(module).__name__ in known.blocks})
    module = Network(body).eval()
    for site in module.modules():
        if isinstance(site, Site):
            site.port.fused = True
    return Part(
        "network",
        module,
        (TensorInfo("lr", 3, scale),),
        TensorInfo("picture", 3, 1),
        multiple,
        absorb=(*known.absorb, *sequential_rows(module)),
        blocks=blocks,
    )


def first_last(part: Part) -> None:
    """Tell the part which sites run first and last: modules need not be listed in the order in which they run."""
    order: list[str] = []

    def note(name: str, _output: Tensor) -> None:
        order.append(name)

    with watching_outputs((named.site, partial(note, named.name)) for named in part.sites()):
        part.run(smooth_sources([part], proof_size(part.multiple)))
    part.ends = (order[0], order[-1])
