"""The deployable UNet: latent z → clean latent x0, with the timestep, the text and x0 folded in."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.blocks import Mid, ResBlock, resamplers
from passionsr_trt.export.families.stable_diffusion.blocks import SpatialTransformer
from passionsr_trt.export.model.sites import SiteConv
from torch import Tensor, nn


class Stage(nn.Module):
    """One level of the UNet: ResBlocks, each followed by a transformer where the level has attention."""

    def __init__(self, block: Any, time_embedding: Tensor, text: Tensor) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(resnet, time_embedding) for resnet in block.resnets)
        attentions = getattr(block, "attentions", None) or []
        self.attentions = nn.ModuleList(SpatialTransformer(attention, text) for attention in attentions)
        self.downsamplers, self.upsamplers = resamplers(block)

    def step(self, index: int, x: Tensor) -> Tensor:
        """ResBlock `index` and, where there is one, its transformer."""
        x = self.resnets[index](x)
        return self.attentions[index](x) if len(self.attentions) else x

    def down(self, x: Tensor) -> list[Tensor]:
        """Every output that a skip connection carries, in order; the last is the input of the next level."""
        outputs = []
        for index in range(len(self.resnets)):
            x = self.step(index, x)
            outputs.append(x)
        for downsample in self.downsamplers:
            outputs.append(downsample(x))
        return outputs

    def up(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.step(index, torch.cat([x, skips.pop()], dim=1))
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class OneStepUNet(nn.Module):
    """latent z [B, C, H/8, W/8] → clean latent x0, same shape, float32 in and out.

    x0 = z_gain·z − conv_out(…), where conv_out carries the gain of the prediction:
    ε: x0 = (z − σ·ε)/√ᾱ, so z_gain = 1/√ᾱ and conv_out is scaled by σ/√ᾱ;
    v: x0 = √ᾱ·z − σ·v, so z_gain = √ᾱ and conv_out is scaled by σ;
    residual: x0 = z − r, nothing is scaled.
    conv_out and this formula stay float32: at t = 999 of SD 2.1 they amplify errors 14.6 times.
    """

    def __init__(self, unet: Any, timestep: int, text: Tensor, alpha_bar: float, prediction: str) -> None:
        super().__init__()
        check_supported(unet.config)
        with torch.no_grad():
            time = unet.time_proj(torch.tensor([timestep])).to(torch.float32)
            embedding = unet.time_embedding(time)
            self.conv_in = SiteConv.from_conv(unet.conv_in)
            self.down_blocks = nn.ModuleList(Stage(block, embedding, text) for block in unet.down_blocks)
            self.mid_block = Mid(unet.mid_block, embedding, partial(SpatialTransformer, text=text))
            self.up_blocks = nn.ModuleList(Stage(block, embedding, text) for block in unet.up_blocks)
            self.conv_norm_out = unet.conv_norm_out
            self.conv_out = SiteConv.from_conv(unet.conv_out)
            sigma, root = (1 - alpha_bar) ** 0.5, alpha_bar**0.5
            gains = {"epsilon": (1 / root, sigma / root), "v": (root, sigma), "residual": (1.0, 1.0)}
            self.z_gain, gain = gains[prediction]
            self.conv_out.scale_output(gain)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.conv_in(latent)
        skips = [x]
        for stage in self.down_blocks:
            assert isinstance(stage, Stage)
            skips += stage.down(skips[-1])
        x = self.mid_block(skips[-1])
        for stage in self.up_blocks:
            assert isinstance(stage, Stage)
            x = stage.up(x, skips)
        x = F.silu(self.conv_norm_out(x))
        return latent * self.z_gain - self.conv_out(x)


def check_supported(config: Any) -> None:
    """Refuse what this twin does not express, by name, before anything is folded."""
    required = {
        "resnet_time_scale_shift": "default",
        "act_fn": "silu",
        "addition_embed_type": None,
        "class_embed_type": None,
        "encoder_hid_dim_type": None,
        "dual_cross_attention": False,
        "only_cross_attention": False,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "center_input_sample": False,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
        "resnet_out_scale_factor": 1.0,
        "mid_block_scale_factor": 1,
    }
    for key, value in required.items():
        found = getattr(config, key, value)
        if found != value:
            raise UserError(f"unet/config.json: {key} is {found!r}", f"expected {value!r} (SD 2.1 topology)")
    allowed = {"CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
    for name in (*config.down_block_types, *config.up_block_types):
        if name not in allowed:
            raise UserError(f"unet/config.json: block {name}", f"expected one of {', '.join(sorted(allowed))}")
