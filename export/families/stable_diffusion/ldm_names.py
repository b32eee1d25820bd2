"""The UNet's original (ldm) module paths → diffusers'; its autoencoder's: export/families/ldm_names.py.

    input_blocks.4.1.transformer_blocks.0.attn1.to_q → down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q

A path that is in diffusers' form already is given back as it is.
"""

from __future__ import annotations

import re
from typing import Any

IN_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}


def unet_path(path: str, config: Any) -> str:
    """Of a UNet whose `config` has layers_per_block and block_out_channels."""
    for old, new in UNET_ENDS.items():
        if path == old or path.startswith(f"{old}."):
            return _resnet(new + path[len(old) :])
    found = re.match(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)", path)
    if found is None:
        return path
    side, index, place, rest = found[1], int(found[2]), int(found[3]), found[4]
    layers = config.layers_per_block
    per_level = layers + 1  # an input level ends with its downsampler, an output level has one layer more
    level, layer = divmod(index - 1 if side == "input" else index, per_level)
    block = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
    if rest == "op":
        return f"{block}.downsamplers.0.conv"
    if rest == "conv":
        return f"{block}.upsamplers.0.conv"
    return _resnet(f"{block}.{'attentions' if place else 'resnets'}.{layer}.{rest}")


def _resnet(path: str) -> str:
    for old, new in IN_RESNET.items():
        if path.endswith(f".{old}"):
            return path.removesuffix(old) + new
    return path
