"""The demo's pictures show no grid."""

from __future__ import annotations

import numpy as np
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image

from tests.conftest import DEMO, Built
from tests.grids import period_share

PHOTOS = ("astronaut", "chelsea", "china", "coffee", "flower")
SIDE = 72  # low-resolution pixels


def test_the_demo_model_leaves_no_grid(demo: Built) -> None:
    """0.02 in the originals, 0.19 where the model was trained too short."""
    chain = load_engines(demo.engines_int8)
    shares = []
    for name in PHOTOS:
        low = read_picture(DEMO / "photos" / "lr" / f"{name}.png").rgb.crop((0, 0, SIDE, SIDE))
        shares.append(period_share(super_resolve(chain, low, Options()).image))
    assert np.mean(shares) <= 0.06, shares


def test_a_planted_grid_is_seen() -> None:
    rng = np.random.default_rng(0)
    noise, cell = rng.normal(0, 20, (256, 256)), rng.normal(0, 10, (8, 8))
    for pixels, low, high in ((noise, 0.0, 0.06), (noise + np.tile(cell, (32, 32)), 0.35, 0.5)):
        image = Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8))
        assert low <= period_share(image) <= high
    assert period_share(Image.fromarray(np.tile(np.clip(cell * 4 + 128, 0, 255), (32, 32)).astype(np.uint8))) > 0.9
