"""The deployable halves of the VQ autoencoder: LR picture → latent of its enlargement, and clean latent → picture.

| constant        | where it goes                                                                   |
| --------------- | ------------------------------------------------------------------------------- |
| quant_conv      | the encoder's last convolution (1×1 behind 3×3)                                 |
| post_quant_conv | the codebook: what is looked up is W·c + b, what is searched is c               |

The enlargement is the authors': PyTorch's bicubic (a = −0.75) of the LR picture, not cut to [−1, 1], in float.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from passionsr_trt.export.families.autoencoder import Decoder, Encoder
from torch import Tensor, nn

CODES_AT_ONCE = 1024  # distances of so many to every position: 67 MB at 512×512
# of the middle attention's queries, 16,384 at 512×512, whose scores are 1.07 GB; the sides of what it sees are
# multiples of 4 positions
SLICES, POSITIONS = 16, 4


class VQEncoder(Encoder):
    """lr [B, 3, h, w] in [−1, 1] → z_y [B, C, upscale·h/s, upscale·w/s], s the autoencoder's stride."""

    def __init__(self, vae: Any, upscale: int) -> None:
        super().__init__(vae.encoder, vae.quant_conv, SLICES)
        self.upscale = upscale

    def forward(self, lr: Tensor) -> Tensor:
        return self.encode(enlarged(lr, self.upscale))


def enlarged(lr: Tensor, upscale: int) -> Tensor:
    """The picture that the autoencoder encodes, as the authors enlarge it."""
    if upscale == 1:
        return lr
    return F.interpolate(lr, scale_factor=float(upscale), mode="bicubic", align_corners=False)


class Codebook(nn.Module):
    """x [B, C, h, w] → what stands for the nearest code at every position, [B, C, h, w]. Always float32.

    In slices of the codebook with a running minimum: all distances at once are 0.5 GB at 512×512. They are summed
    as (x − c)², channel by channel: a few channels need no matrix product, whose precision engines choose.
    """

    codes: Tensor
    values: Tensor

    def __init__(self, codes: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("values", values.contiguous())

    def search(self, x: Tensor) -> Tensor:
        """The nearest codes' numbers [B, h·w]."""
        positions = x.flatten(2).transpose(1, 2)
        least = number = None
        for start in range(0, self.codes.shape[0], CODES_AT_ONCE):
            codes = self.codes[start : start + CODES_AT_ONCE]
            distances = (positions[..., :1] - codes[:, 0]).square()
            for channel in range(1, codes.shape[1]):
                distances = distances + (positions[..., channel : channel + 1] - codes[:, channel]).square()
            near, index = (found[..., 0] for found in torch.topk(distances, 1, dim=-1, largest=False))
            if least is None or number is None:
                least, number = near, index
            else:
                number = torch.where(near < least, index + start, number)
                least = torch.minimum(near, least)
        assert number is not None
        return number

    def forward(self, x: Tensor) -> Tensor:
        found = self.values[self.search(x)].transpose(1, 2)
        return found.reshape(x.shape[0], self.values.shape[1], x.shape[2], x.shape[3])


class VQDecoder(Decoder):
    """x0 [B, C, h, w] → picture [B, 3, s·h, s·w] in about [−1, 1]."""

    def __init__(self, vae: Any) -> None:
        super().__init__(vae.decoder, slices=SLICES)
        codes = vae.quantize.embedding.weight.data
        after = vae.post_quant_conv
        values = codes.double() @ after.weight.data.double().flatten(1).t() + after.bias.data.double()
        self.codebook = Codebook(codes, values.float())

    def forward(self, x0: Tensor) -> Tensor:
        return self.decode(self.codebook(x0))
