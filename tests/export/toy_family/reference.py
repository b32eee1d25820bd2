"""The toy model as its authors might have written it: one diffusion step on the small picture, then ×2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class ResBlock(nn.Module):
    """x [B, C, h, w] + conv(SiLU(norm(conv(SiLU(norm(x))) + time))); the time embedding is [1, C]."""

    conv_shortcut = None

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, WIDTH), nn.GroupNorm(4, WIDTH)
        self.conv1, self.conv2 = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)
        self.time_emb_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(hidden)))


class Attention(nn.Module):
    """x [B, C, h, w] + attention over its positions."""

    heads, scale = 2, (WIDTH // 2) ** -0.5

    def __init__(self) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(4, WIDTH)
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = (torch.softmax(q @ k.transpose(-1, -2) * self.scale, dim=-1) @ v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](mixed).transpose(1, 2).reshape_as(x)


class UNet(nn.Module):
    """z [B, 3, h, w], timestep → ε [B, 3, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embedding = nn.Linear(1, WIDTH)
        self.conv_in, self.down = conv(3, WIDTH), conv(WIDTH, WIDTH, stride=2)
        self.block, self.attention = ResBlock(), Attention()
        self.up, self.conv_out = conv(WIDTH, WIDTH), conv(WIDTH, 3)

    def forward(self, z: Tensor, timestep: int) -> Tensor:
        skip = self.conv_in(z)
        x = self.block(self.down(skip), self.time_embedding(torch.tensor([[timestep / 1000]])))
        x = F.interpolate(self.attention(x), scale_factor=2.0, mode="nearest")
        return self.conv_out(F.silu(self.up(x) + skip))


class Decoder(nn.Module):
    """x0 [B, 3, h, w] → picture [B, 3, 2h, 2w]: the enlarged x0 and details."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.up, self.conv_out = conv(3, WIDTH), conv(WIDTH, WIDTH), conv(WIDTH, 3)

    def forward(self, clean: Tensor) -> Tensor:
        x = F.interpolate(F.relu(self.conv_in(clean)), scale_factor=2.0, mode="nearest")
        return F.interpolate(clean, scale_factor=2.0, mode="nearest") + self.conv_out(F.relu(self.up(x)))


class ToyModel(nn.Module):
    """z = lr + σ·noise, x0 = z − σ·ε(z, t), picture = decoder(x0)."""

    def __init__(self) -> None:
        super().__init__()
        self.unet, self.decoder = UNet(), Decoder()

    def denoise(self, lr: Tensor, noise: Tensor, timestep: int, sigma: float) -> Tensor:
        z = lr + sigma * noise
        return z - sigma * self.unet(z, timestep)
