"""A file in the layout of BI-DiffSR's release with random weights: what full-size figures are measured on.

    python benchmarks/bidiffsr_model.py -o out/bidiffsr
    passionsr-trt import-model --family bidiffsr --unet out/bidiffsr/unet.pth --steps 10 -o out/bidiffsr/model

51 M parameters, as configured for ×4. The pictures mean nothing, the arithmetic is the real model's.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """The release's own. float_levels: decoder levels from the first on whose convolutions are plain."""

    inner: int = 64
    norm_groups: int = 16
    levels: tuple[int, ...] = (1, 2, 4, 8)
    blocks: int = 2
    float_levels: int = 2
    groups: int = 5


@dataclass
class Layout:
    """Names and weights, drawn in the order in which they are asked for."""

    groups: int
    state: dict[str, Tensor] = field(default_factory=dict)

    def weight(self, name: str, *shape: int, bias: bool = True, gain: float = 1.0) -> None:
        """A convolution or a linear, outputs first."""
        self.state[f"{name}.weight"] = gain * torch.randn(shape) / torch.tensor(shape[1:]).prod() ** 0.5
        if bias:
            self.state[f"{name}.bias"] = 0.02 * torch.randn(shape[0])

    def norm(self, name: str, channels: int) -> None:
        self.state[f"{name}.weight"] = torch.exp(0.4 * torch.randn(channels))
        self.state[f"{name}.bias"] = 0.1 * torch.randn(channels)

    def binary(self, name: str, channels: int, kernel: int = 3) -> None:
        """BIConv: its weight, and of every group a bias and an RPReLU."""
        shape = 1, channels, 1, 1
        self.weight(f"{name}.binary_conv", channels, channels, kernel, kernel, bias=False, gain=0.5)
        for group in range(self.groups):
            self.state[f"{name}.TaR.dynamic_move_{group}.bias"] = 0.1 * torch.randn(shape)
            relu = f"{name}.TaA.dynamic_relu_{group}"
            self.state[f"{relu}.pr_bias0.bias"] = 0.1 * torch.randn(shape)
            self.state[f"{relu}.pr_prelu.weight"] = 0.25 + 0.05 * torch.randn(channels)
            self.state[f"{relu}.pr_bias1.bias"] = 0.1 * torch.randn(shape)

    def block(self, name: str, channels: int, time: int, is_float: bool = False) -> None:
        self.weight(f"{name}.res_block.timestep_func.1", channels, time, gain=0.3)
        for half, gain in (("block1", 1.0), ("block2", 0.3)):
            path = f"{name}.res_block.{half}"
            self.norm(f"{path}.block.0", channels)
            if is_float:
                self.weight(f"{path}.conv", channels, channels, 3, 3, gain=gain)
            else:
                self.binary(f"{path}.conv", channels)


def unet(sizes: Sizes) -> dict[str, Tensor]:
    """BIDiffSRUNet's names."""
    own, inner = Layout(sizes.groups), sizes.inner
    own.weight("timestep_level_mlp.1", 4 * inner, inner)
    own.weight("timestep_level_mlp.3", inner, 4 * inner)
    own.weight("downs.0", inner, 6, 3, 3)
    number, widths = 1, [inner * level for level in sizes.levels]
    for level, width in enumerate(widths):
        for _block in range(sizes.blocks):
            own.block(f"downs.{number}", width, inner)
            number += 1
        if level < len(widths) - 1:
            for name in ("biconv1", "biconv2"):
                own.binary(f"downs.{number}.{name}", width // 2)
            number += 1
    own.block("mid.0", widths[-1], inner)
    own.norm("mid.0.attn.norm", widths[-1])
    own.weight("mid.0.attn.qkv", 3 * widths[-1], widths[-1], 1, 1, bias=False)
    own.weight("mid.0.attn.out", widths[-1], widths[-1], 1, 1, gain=0.3)
    own.block("mid.1", widths[-1], inner)
    number = 0
    for level, width in reversed(list(enumerate(widths))):
        is_float = level < sizes.float_levels
        for _block in range(sizes.blocks + 1):
            for name in ("biconv_1", "biconv_2"):
                if is_float:
                    own.weight(f"ups.{number}.{name}", width, width, 1, 1, gain=0.7)
                else:
                    own.binary(f"ups.{number}.{name}", width, kernel=1)
            own.block(f"ups.{number + 1}", width, inner, is_float)
            number += 2
        if level:
            for name in ("biconv1", "biconv2"):
                own.binary(f"ups.{number}.{name}", width)
            number += 1
    own.norm("final_conv.block.0", inner)
    own.weight("final_conv.block.3", 3, inner, 3, 3)
    return own.state


def write(folder: Path, sizes: Sizes, seed: int = 0) -> Path:
    """unet.pth in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    state = unet(sizes)
    torch.save({"params": state}, folder / "unet.pth")
    print(f"{folder / 'unet.pth'}: {sum(tensor.numel() for tensor in state.values()) / 1e6:.0f} M parameters")
    return folder / "unet.pth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0, help="channels times this; below 1 a smaller model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} is there already")
    write(arguments.output, Sizes(inner=max(16, int(64 * arguments.width) // 16 * 16)))


if __name__ == "__main__":
    main()
