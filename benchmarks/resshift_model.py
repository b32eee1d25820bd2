"""Files in the layout of SinSR's and ResShift's releases, or of DiT-SR's, with random weights: what full-size
figures are measured on.

    python benchmarks/resshift_model.py -o out/resshift
    passionsr-trt import-model --family resshift --unet out/resshift/unet.pth \
        --autoencoder out/resshift/autoencoder.pth -o out/resshift/model

119 M (UNet) and 55 M (VQ-f4) parameters as they are; with --dit-sr the network is Swin layers of six blocks
alone, 61 M. Weights have the statistics of trained ones: residual branches are small, norms' gains have outliers.
The pictures mean nothing, the arithmetic is the real model's.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """The release's own."""

    channels: int = 160
    levels: tuple[int, ...] = (1, 2, 2, 4)
    layers: int = 2
    embed: int = 192
    depth: int = 2
    window: int = 8
    head: int = 32
    side: int = 64  # LR pixels of the pictures that it was trained with
    vae_channels: int = 128
    vae_levels: tuple[int, ...] = (1, 2, 4)
    vae_layers: int = 2
    latent: int = 3
    codes: int = 8192
    adaptive: bool = False  # DiT-SR's layers: Swin with AdaFM alone
    branch: tuple[int, ...] = ()  # DiT-SR's for faces: channels of the LR picture's features, stage after stage


@dataclass
class Layout:
    """Names and weights, drawn in the order in which they are asked for."""

    state: dict[str, Tensor] = field(default_factory=dict)

    def weight(self, name: str, *shape: int, gain: float = 1.0) -> None:
        """A convolution or a linear, outputs first."""
        rows = gain * torch.exp(0.3 * torch.randn(shape[0], *([1] * (len(shape) - 1))))
        self.state[f"{name}.weight"] = torch.randn(shape) * rows / torch.tensor(shape[1:]).prod() ** 0.5
        self.state[f"{name}.bias"] = 0.02 * torch.randn(shape[0])

    def norm(self, name: str, channels: int) -> None:
        gains = torch.exp(0.4 * torch.randn(channels))
        gains[torch.rand(channels) < 0.02] *= 4
        self.state[f"{name}.weight"], self.state[f"{name}.bias"] = gains, 0.1 * torch.randn(channels)


def unet(sizes: Sizes) -> dict[str, Tensor]:
    """UNetModelSwin's names, or DiTSRModel's."""
    own, time = Layout(), 4 * sizes.channels
    own.weight("time_embed.0", time, sizes.channels)
    own.weight("time_embed.2", time, time)

    def block(path: str, inputs: int, outputs: int) -> None:
        own.norm(f"{path}.in_layers.0", inputs)
        own.weight(f"{path}.in_layers.2", outputs, inputs, 3, 3)
        own.weight(f"{path}.emb_layers.1", 2 * outputs, time, gain=0.3)
        own.norm(f"{path}.out_layers.0", outputs)
        own.weight(f"{path}.out_layers.3", outputs, outputs, 3, 3, gain=0.3)
        if inputs != outputs:
            own.weight(f"{path}.skip_connection", outputs, inputs, 1, 1)

    def swin(path: str, channels: int, side: int, depth: int = sizes.depth) -> None:
        own.weight(f"{path}.patch_embed.proj", sizes.embed, channels, 1, 1)
        for index in range(depth):
            place = f"{path}.blocks.{index}"
            if index % 2 and side > sizes.window:
                own.state[f"{place}.attn_mask"] = torch.zeros((side // sizes.window) ** 2, *[sizes.window**2] * 2)
            own.norm(f"{place}.norm1", sizes.embed)
            positions = torch.randn((2 * sizes.window - 1) ** 2, sizes.embed // sizes.head)
            own.state[f"{place}.attn.relative_position_bias_table"] = positions
            own.state[f"{place}.attn.relative_position_index"] = relative_positions(sizes.window)
            own.weight(f"{place}.attn.qkv", 3 * sizes.embed, sizes.embed)
            own.weight(f"{place}.attn.proj", sizes.embed, sizes.embed, gain=0.3)
            own.norm(f"{place}.norm2", sizes.embed)
            own.weight(f"{place}.mlp.fc1", 4 * sizes.embed, sizes.embed, 1, 1)
            own.weight(f"{place}.mlp.fc2", sizes.embed, 4 * sizes.embed, 1, 1, gain=0.3)
            for name in ("adaLN_scale_msa", "adaLN_scale_mlp") if sizes.adaptive else ():
                own.weight(f"{place}.{name}.1", sizes.window * (sizes.window // 2 + 1), time)
                own.state[f"{place}.{name}.1.bias"] += 1
        own.weight(f"{path}.patch_unembed.proj", channels, sizes.embed, 1, 1)

    widths, side, number = [sizes.channels * level for level in sizes.levels], sizes.side, 0
    stages = (sizes.branch[0] // 2, *sizes.branch) if sizes.branch else ()
    for stage, (inputs, outputs) in enumerate(itertools.pairwise(stages)):
        own.weight(f"feature_extractor.{3 * stage}", inputs, inputs if stage else 3, 3, 3)
        own.weight(f"feature_extractor.{3 * stage + 2}.op", outputs, inputs, 3, 3)
    own.weight("input_blocks.0.0", widths[0], sizes.latent + (sizes.branch or (3,))[-1], 3, 3)
    channels, skips = widths[0], [widths[0]]
    for level, width in enumerate(widths):
        for layer in range(sizes.layers):
            number += 1
            if sizes.adaptive:
                swin(f"input_blocks.{number}.0", channels, side)
            else:
                block(f"input_blocks.{number}.0", channels, width)
                if not layer:
                    swin(f"input_blocks.{number}.1", width, side)
                channels = width
            skips.append(channels)
        if level < len(widths) - 1:
            number, side = number + 1, side // 2
            after = widths[level + 1] if sizes.adaptive else channels
            own.weight(f"input_blocks.{number}.0.op", after, channels, 3, 3)
            channels = after
            skips.append(channels)
    if sizes.adaptive:
        swin("middle_block.0", channels, side)
    else:
        block("middle_block.0", channels, channels)
        swin("middle_block.1", channels, side)
        block("middle_block.2", channels, channels)
    number = 0
    for level, width in reversed(list(enumerate(widths))):
        for layer in range(sizes.layers + 1):
            inputs, channels, place = channels + skips.pop(), width, 1
            if sizes.adaptive:
                own.weight(f"output_blocks.{number}.0", width, inputs, 3, 3)
            else:
                block(f"output_blocks.{number}.0", inputs, width)
            if sizes.adaptive or not layer:
                alone = sizes.adaptive and layer == sizes.layers  # DiT-SR's last one of a level has one block
                swin(f"output_blocks.{number}.1", width, side, 1 if alone else sizes.depth)
                place = 2
            if level and layer == sizes.layers:
                after = widths[level - 1] if sizes.adaptive else width
                own.weight(f"output_blocks.{number}.{place}.conv", after, width, 3, 3)
                channels, side = after, side * 2
            number += 1
    own.norm("out.0", channels)
    own.weight("out.2", sizes.latent, channels, 3, 3)
    return own.state


def relative_positions(window: int) -> Tensor:
    """[tokens, tokens]: rows of the table of relative positions."""
    rows, columns = torch.arange(window**2) // window, torch.arange(window**2) % window
    down, right = (place[:, None] - place[None] + window - 1 for place in (rows, columns))
    return down * (2 * window - 1) + right


def autoencoder(sizes: Sizes) -> dict[str, Tensor]:
    """ldm's names of VQModel."""
    own, widths = Layout(), [sizes.vae_channels * level for level in sizes.vae_levels]

    def block(path: str, inputs: int, outputs: int) -> None:
        own.norm(f"{path}.norm1", inputs)
        own.weight(f"{path}.conv1", outputs, inputs, 3, 3)
        own.norm(f"{path}.norm2", outputs)
        own.weight(f"{path}.conv2", outputs, outputs, 3, 3, gain=0.3)
        if inputs != outputs:
            own.weight(f"{path}.nin_shortcut", outputs, inputs, 1, 1)

    def middle(half: str, width: int) -> None:
        block(f"{half}.mid.block_1", width, width)
        own.norm(f"{half}.mid.attn_1.norm", width)
        for name, gain in (("q", 1.0), ("k", 1.0), ("v", 1.0), ("proj_out", 0.3)):
            own.weight(f"{half}.mid.attn_1.{name}", width, width, 1, 1, gain=gain)
        block(f"{half}.mid.block_2", width, width)

    channels = widths[0]
    own.weight("encoder.conv_in", channels, 3, 3, 3)
    for level, width in enumerate(widths):
        for layer in range(sizes.vae_layers):
            block(f"encoder.down.{level}.block.{layer}", channels, width)
            channels = width
        if level < len(widths) - 1:
            own.weight(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", channels)
    own.norm("encoder.norm_out", channels)
    own.weight("encoder.conv_out", sizes.latent, channels, 3, 3)
    own.weight("decoder.conv_in", channels, sizes.latent, 3, 3)
    middle("decoder", channels)
    for level, width in reversed(list(enumerate(widths))):
        for layer in range(sizes.vae_layers + 1):
            block(f"decoder.up.{level}.block.{layer}", channels, width)
            channels = width
        if level:
            own.weight(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    own.norm("decoder.norm_out", channels)
    own.weight("decoder.conv_out", 3, channels, 3, 3, gain=0.3)
    own.state["quantize.embedding.weight"] = torch.randn(sizes.codes, sizes.latent)
    for name in ("quant_conv", "post_quant_conv"):
        own.weight(name, sizes.latent, sizes.latent, 1, 1)
    return own.state


def write(folder: Path, sizes: Sizes, seed: int = 0) -> tuple[Path, Path]:
    """unet.pth and autoencoder.pth in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    paths = folder / "unet.pth", folder / "autoencoder.pth"
    for path, state in zip(paths, (unet(sizes), autoencoder(sizes)), strict=True):
        torch.save({"state_dict": state}, path)
        count = sum(tensor.numel() for key, tensor in state.items() if key.endswith(("weight", "bias", "table")))
        print(f"{path}: {count / 1e6:.0f} M parameters")
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0, help="channels times this; below 1 a smaller model")
    parser.add_argument("--dit-sr", action="store_true", help="the network is DiT-SR's")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} is there already")
    own = Sizes(layers=1, depth=6, adaptive=True) if arguments.dit_sr else Sizes()
    channels, embed, vae = (
        max(32, int(size * arguments.width) // 32 * 32) for size in (own.channels, own.embed, own.vae_channels)
    )
    write(arguments.output, replace(own, channels=channels, embed=embed, vae_channels=vae))


if __name__ == "__main__":
    main()
