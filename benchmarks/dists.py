"""DISTS (Ding et al., TPAMI 2020): structure and texture distance on VGG16 features, 0 for equal images.

The weights are not part of the project: a folder with lpips_vgg16_fp16.safetensors (conv0–12) and
dists_alpha_beta.safetensors (alpha, beta [1, 1475, 1, 1]) is given by the caller.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

STAGES = ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPSILON = 1e-6


class Dists:
    """`features` once for each image, `distance` for each pair."""

    def __init__(self, folder: Path) -> None:
        self.vgg = {
            key: value.float() for key, value in load_file(folder / "lpips_vgg16_fp16.safetensors").items()
        }
        weights = load_file(folder / "dists_alpha_beta.safetensors")
        total = weights["alpha"].sum() + weights["beta"].sum()
        self.alpha, self.beta = (weights[name].flatten() / total for name in ("alpha", "beta"))
        window = torch.from_numpy(np.hanning(5)[1:-1]).float()
        self.window = (window[:, None] * window[None, :] / window.sum() ** 2)[None, None]

    @torch.no_grad()
    def features(self, image: Image.Image) -> list[Tensor]:
        """The image itself and the last ReLU of each stage, [C, pixels]."""
        x = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255)
        found = [x]
        shape = (1, 3, 1, 1)
        x = (x - torch.tensor(MEAN).reshape(shape)) / torch.tensor(STD).reshape(shape)
        for index, stage in enumerate(STAGES):
            if index:
                channels = x.shape[1]
                kernel = self.window.expand(channels, 1, 3, 3)
                x = (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=channels) + 1e-12).sqrt()
            for layer in stage:
                x = F.relu(F.conv2d(x, self.vgg[f"conv{layer}.weight"], self.vgg[f"conv{layer}.bias"], padding=1))
            found.append(x)
        return [feature[0].flatten(1) for feature in found]

    def distance(self, first: list[Tensor], second: list[Tensor]) -> float:
        """1 − Σ (α·texture + β·structure)."""
        texture, structure = [], []
        for a, b in zip(first, second, strict=True):
            pixels = a.shape[1]
            mean_a, mean_b = a.mean(1), b.mean(1)
            variance_a, variance_b, covariance = (
                torch.linalg.vecdot(x, y) / pixels - mean_x * mean_y
                for x, y, mean_x, mean_y in (
                    (a, a, mean_a, mean_a),
                    (b, b, mean_b, mean_b),
                    (a, b, mean_a, mean_b),
                )
            )
            texture.append((2 * mean_a * mean_b + EPSILON) / (mean_a**2 + mean_b**2 + EPSILON))
            structure.append((2 * covariance + EPSILON) / (variance_a + variance_b + EPSILON))
        return float(1 - (self.alpha * torch.cat(texture) + self.beta * torch.cat(structure)).sum())
