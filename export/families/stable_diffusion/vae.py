"""The deployable VAE halves: image → scaled latent z, and clean latent x0 → image.

Both take and give images in [-1, 1] and latents already multiplied by the scaling factor, so the
chain needs no arithmetic between its parts.
"""

from __future__ import annotations

from typing import Any

import torch
from passionsr_trt.export.families.autoencoder import Decoder, Encoder
from passionsr_trt.export.model.sites import SiteConv
from torch import Tensor


class KLEncoder(Encoder):
    """AutoencoderKL's encoder. image [B,3,H,W] in [-1,1] → z [B,C,H/8,W/8], scaled; for posterior `sample` with
    noise [B,C,H/8,W/8].

    conv_out' = scaling_factor · quant_conv ∘ conv_out. Posterior `mode` keeps the mean rows only. Posterior
    `sample` gives scaled mean + scaled standard deviation · noise.
    """

    def __init__(self, vae: Any, scaling_factor: float, posterior: str) -> None:
        super().__init__(vae.encoder, vae.quant_conv)
        self.scaling_factor = scaling_factor
        weight, bias = self.conv_out.weight.data.clone(), self.conv_out.bias
        assert bias is not None
        bias_data = bias.data.clone()
        rows = weight.shape[0] // 2
        weight[:rows] *= scaling_factor
        bias_data[:rows] *= scaling_factor
        if posterior == "mode":
            weight, bias_data = weight[:rows], bias_data[:rows]
        self.conv_out.assign(weight, bias_data)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        moments = self.encode(image)
        if noise is None:
            return moments
        mean, log_variance = moments.chunk(2, dim=1)
        deviation = torch.exp(0.5 * torch.clamp(log_variance, -30.0, 20.0))
        return mean + deviation * self.scaling_factor * noise


class KLDecoder(Decoder):
    """AutoencoderKL's decoder. x0 [B,C,h,w], scaled → image [B,3,8h,8w] in about [-1,1].

    post_quant_conv' = post_quant_conv / scaling_factor.
    """

    def __init__(self, vae: Any, scaling_factor: float) -> None:
        channels = vae.decoder.conv_in.in_channels
        if vae.post_quant_conv is not None:
            before = SiteConv.from_conv(vae.post_quant_conv)
            before.assign(vae.post_quant_conv.weight.data / scaling_factor, vae.post_quant_conv.bias.data)
        else:
            before = SiteConv(torch.eye(channels).reshape(channels, channels, 1, 1) / scaling_factor, None)
        super().__init__(vae.decoder, before)

    def forward(self, latent: Tensor) -> Tensor:
        return self.decode(self.post_quant_conv(latent))
