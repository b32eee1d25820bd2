"""What must be known of an architecture beyond its code: explicit rows, by spandrel's names.

multiple: of the low-resolution picture's sides; where it is kept, the authors' own padding is none.
blocks: classes whose instances learn together, block by block.
absorb: which neighbour takes LET's scales; a wrong row is refused by the proof, a missing one costs a Mul.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.sites import Site
from torch import nn

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity)  # s > 0 passes through them


@dataclass(frozen=True)
class Architecture:
    multiple: Callable[[Any], int] = lambda _network: 1
    blocks: tuple[str, ...] = ()
    absorb: tuple[Absorb, ...] = ()
    refused: str = ""


# the sides of DAT's windows: its own padding is of zeros, within its attention, and none is left to do
KNOWN: dict[str, Architecture] = {
    "ATD": Architecture(refused="its tokens are sorted by category (aten.sort), which ONNX's exporter has not"),
    "Compact": Architecture(),
    "CRAFT": Architecture(
        lambda network: network.window_size,
        ("RCRFG",),
        (Absorb("qkv", "norm1"), Absorb("mlp.fc1", "norm2")),
    ),
    "DAT": Architecture(
        lambda network: max(network.layers[0].blocks[0].attn.split_size),
        ("ResidualGroup",),
        (Absorb("attn.qkv", "norm1"), Absorb("ffn.fc1", "norm2")),
    ),
    "ESRGAN": Architecture(lambda network: network.shuffle_factor or 1, ("RRDB",)),
    "HAT": Architecture(  # its norm1 feeds a convolution beside attn.qkv
        lambda network: network.window_size,
        ("RHAG",),
        (Absorb("overlap_attn.qkv", "overlap_attn.norm1"), Absorb("mlp.fc1", "norm2")),
    ),
    "OmniSR": Architecture(lambda network: network.window_size, ("OSAG",)),
    "PLKSR": Architecture(blocks=("PLKBlock",)),
    "RCAN": Architecture(lambda network: network.downscale_factor, ("ResidualGroup",)),
    "Restormer": Architecture(lambda _network: 8, ("TransformerBlock",)),
    "SAFMN": Architecture(lambda _network: 8, ("AttBlock",)),
    "SPAN": Architecture(),
    "SRFormer": Architecture(
        lambda network: network.window_size,
        ("PSA_Group",),
        (Absorb("attn.q", "norm1"), Absorb("attn.kv", "norm1"), Absorb("mlp.fc1", "norm2")),
    ),
    "SwinIR": Architecture(
        lambda network: network.window_size,
        ("RSTB",),
        (Absorb("attn.qkv", "norm1"), Absorb("mlp.fc1", "norm2")),
    ),
}


# of spandrel_extra_arches, by a weight that only they have
EXTRA = {
    "SRFormer": "layers.0.residual_group.blocks.0.attn.aligned_relative_position_index",
    "Restormer": "encoder_level1.0.attn.temperature",
}


def sequential_rows(network: nn.Module) -> tuple[Absorb, ...]:
    """site → ReLU, LeakyReLU or PReLU → site, as nn.Sequential and Compact's list run them."""
    rows = []
    for path, layers in network.named_modules():
        if type(layers) is nn.Sequential or (path.endswith("body") and type(layers) is nn.ModuleList):
            before = ""
            for name, layer in layers.named_children():
                inner = f"{path}.{name}" if path else name
                if isinstance(layer, Site):
                    if before:
                        rows.append(Absorb(inner, before, Into.ROWS, takes_shift=False))
                    before = inner
                elif not isinstance(layer, HOMOGENEOUS):
                    before = ""
    return tuple(rows)
