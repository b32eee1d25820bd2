"""Flicker and warped differences: what stands still, what moves and what is cut."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("skimage", reason="needs scikit-image (the extra compare)")

from passionsr_trt.runtime.core.steadiness import CODES, Steadiness, motion
from scipy.ndimage import gaussian_filter

SIDE, MARGIN = 96, 8


def texture(seed: int = 0) -> np.ndarray:
    """float32 [3, H, W] in [0, 1], smooth enough to be followed."""
    noise = np.random.default_rng(seed).random((SIDE + 2 * MARGIN, SIDE + 2 * MARGIN))
    smooth = gaussian_filter(noise, 2.5)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.repeat(smooth[None].astype(np.float32), 3, 0)


def moved(picture: np.ndarray, down: int, right: int) -> np.ndarray:
    """The part of a texture that is seen when it has moved so far."""
    top, left = MARGIN - down, MARGIN - right
    return picture[:, top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (0, -3), (1, 2)])
def test_motion_is_followed(down: int, right: int) -> None:
    whole = texture()
    found = motion(moved(whole, 0, 0), moved(whole, down, right))
    inner = (slice(12, -12),) * 2
    assert np.abs(np.median(found.rows[inner]) + down) < 0.1
    assert np.abs(np.median(found.columns[inner]) + right) < 0.1
    assert found.seen[inner].mean() > 0.95


def test_an_earlier_frame_is_moved_at_the_size_of_the_result() -> None:
    whole = texture()
    found = motion(moved(whole, 0, 0), moved(whole, 2, 1))
    large = [np.kron(moved(whole, *shift)[0], np.ones((2, 2), np.float32))[None] for shift in ((0, 0), (2, 1))]
    inner = (slice(None), slice(24, -24), slice(24, -24))
    left = np.abs(found.warped(large[0]) - large[1])[inner].mean()
    assert left < 0.2 * np.abs(large[0] - large[1])[inner].mean()
    assert found.seen_at((2 * SIDE, 2 * SIDE)).shape == (2 * SIDE, 2 * SIDE)


def test_a_difference_that_stands_still_does_not_flicker_and_one_that_changes_does() -> None:
    whole = texture()
    still, changing = Steadiness(), Steadiness()
    for number in range(4):
        given = moved(whole, 0, number)
        still.add(given, given, given + 4 / CODES)
        changing.add(given, given, given + (-1) ** number * 4 / CODES)
    assert still.figures()["flicker"] == pytest.approx(0, abs=1e-3)
    assert changing.figures()["flicker"] == pytest.approx(8, rel=1e-4)
    assert changing.figures()["flicker_worst"] == pytest.approx(8, rel=1e-4)
    steady, restless = still.figures(), changing.figures()
    assert steady["warped_tested"] == pytest.approx(steady["warped_float"], abs=0.01)
    assert restless["warped_tested"] > restless["warped_float"] + 4


def test_a_cut_is_no_motion() -> None:
    steady = Steadiness()
    for seed in (0, 0, 1, 1):
        given = moved(texture(seed), 0, 0)
        steady.add(given, given, given)
    figures = steady.figures()
    assert figures["cuts"] == 1
    assert figures["warped_float"] < 0.5


def test_one_frame_has_no_figures() -> None:
    steady = Steadiness()
    given = moved(texture(), 0, 0)
    steady.add(given, given, given)
    assert steady.figures() == {"cuts": 0}
