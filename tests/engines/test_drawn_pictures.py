"""Pictures that are drawn: those that quantization is judged on, and those that calibration adds."""

from __future__ import annotations

import numpy as np
import pytest
from passionsr_trt.engines.pictures.drawn_set import DRAWN, EXTREME, drawn_set
from passionsr_trt.engines.pictures.synthetic import KINDS, synthetic_pictures
from PIL import Image

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)).resize((90, 50))


@pytest.mark.parametrize("side", [16, 64, 129])
def test_a_drawn_set_is_seeded_and_of_its_side(side: int) -> None:
    first, again, other = drawn_set(side), drawn_set(side), drawn_set(side, seed=1)
    assert set(first) == set(DRAWN) > set(EXTREME)
    for name, image in first.items():
        assert image.size == (side, side) and image.mode == "RGB", name
        assert image.tobytes() == again[name].tobytes(), name
        if side == 64 and name != "checkerboard":
            assert image.tobytes() != other[name].tobytes(), name


def test_drawn_pictures_go_where_photos_do_not() -> None:
    drawn = {name: np.asarray(image, np.float32) for name, image in drawn_set(128).items()}
    steps = {name: np.abs(np.diff(x, axis=1)).max(-1) for name, x in drawn.items()}
    for name in ("text", "line art", "blocks", "QR code", "pixel art", "noise", "checkerboard"):
        assert steps[name].max() > 150, name
    assert steps["gradient"].max() < 8
    assert np.median(drawn["stars"]) < 12 < 200 < drawn["stars"].max()


@pytest.mark.parametrize("side", [16, 64])
def test_synthetic_pictures_take_turns_and_are_seeded(side: int) -> None:
    count = 2 * len(KINDS)
    first, again = (synthetic_pictures(count, side, 3, [PHOTO]) for _ in range(2))
    assert [image.size for image in first] == [(side, side)] * count
    assert {image.mode for image in first} == {"RGB"}
    assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
    assert len({image.tobytes() for image in first}) == count
    fewer = synthetic_pictures(5, side, 3, [PHOTO])
    assert [image.tobytes() for image in fewer] == [image.tobytes() for image in first[:5]]


def test_what_is_judged_on_is_not_calibrated_on() -> None:
    calibrated = {image.tobytes() for image in synthetic_pictures(60, 64, 0, [PHOTO])}
    assert not calibrated & {image.tobytes() for seed in range(3) for image in drawn_set(64, seed).values()}
