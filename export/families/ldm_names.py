"""An autoencoder's original (ldm) module paths → diffusers'.

    encoder.down.2.block.0.nin_shortcut  →  encoder.down_blocks.2.resnets.0.conv_shortcut

A path that is in diffusers' form already is given back as it is.
"""

from __future__ import annotations

import re
from typing import Any

VAE_WORDS = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
    "downsample.conv": "downsamplers.0.conv",
    "upsample.conv": "upsamplers.0.conv",
    "nin_shortcut": "conv_shortcut",
    "norm_out": "conv_norm_out",
}
IN_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def vae_path(path: str, config: Any) -> str:
    """Of an autoencoder whose `config` has block_out_channels. Decoder levels count the other way round."""
    levels = len(config.block_out_channels)
    path = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1.", path)
    path = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up_blocks.{levels - 1 - int(found[1])}.", path)
    path = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", path)
    for old, new in VAE_WORDS.items():
        path = re.sub(rf"\b(?<!conv_){re.escape(old)}(?=\.|$)", new, path)
    head, dot, last = path.rpartition(".")
    if head.endswith("mid_block.attentions.0") and last in IN_VAE_ATTENTION:
        return head + dot + IN_VAE_ATTENTION[last]
    return path
