"""Colour fix, tiles and metrics on arrays."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.errors import UsageError
from passionsr_trt.runtime.colour import adain, align, low_pass, wavelet
from passionsr_trt.runtime.metrics import lpips, psnr, ssim
from passionsr_trt.runtime.tiling import run_tiled, tile_starts
from passionsr_trt.runtime.upscaler import Options
from PIL import Image

RNG = np.random.default_rng(0)


def test_adain_takes_mean_and_deviation_from_the_source() -> None:
    result, source = RNG.random((3, 32, 48), np.float32), RNG.random((3, 32, 48), np.float32) * 0.3 - 0.5
    fixed = adain(result, source)
    np.testing.assert_allclose(fixed.mean((1, 2)), source.mean((1, 2)), atol=1e-4)
    np.testing.assert_allclose(fixed.std((1, 2)), source.std((1, 2)), rtol=1e-3)


def test_wavelet_takes_low_frequencies_from_the_source_and_keeps_high_ones() -> None:
    result, source = RNG.random((3, 64, 64), np.float32), np.full((3, 64, 64), 0.25, np.float32)
    fixed = wavelet(result, source)
    np.testing.assert_allclose(fixed - 0.25, result - low_pass(result, 5), atol=1e-5)
    np.testing.assert_allclose(wavelet(result, result), result, atol=1e-5)
    assert align(result, source, "none") is result


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(2, 4), st.integers(0, 127))
def test_tiles_of_an_identity_give_the_image_back(rows: int, columns: int, side: int, overlap: int) -> None:
    image = RNG.random((1, 3, rows * 64, columns * 64), np.float32)
    shapes = set()

    def run(piece: np.ndarray) -> np.ndarray:
        shapes.add(piece.shape[2:])
        return piece

    result = run_tiled(partial(map, run), image, side * 64, overlap)
    np.testing.assert_allclose(result, image, atol=1e-5)
    assert len(shapes) == 1, "every tile has one shape, so one compiled engine"
    assert all(height <= max(side * 64, image.shape[2]) for height, _width in shapes)


def test_a_change_of_tone_between_tiles_is_spread_over_the_overlap() -> None:
    tones = iter(range(100))

    def run(piece: np.ndarray) -> np.ndarray:
        return piece + next(tones)

    result = run_tiled(partial(map, run), np.zeros((1, 3, 512, 256), np.float32), 256, 128)[0, 0, :, 0]
    assert result[0] == 0 and result[-1] == 2
    assert np.abs(np.diff(result)).max() < np.pi / 2 / 128 * 1.1


def test_the_last_tile_ends_at_the_edge() -> None:
    assert tile_starts(1000, 512, 128) == [0, 384, 488]
    assert tile_starts(512, 512, 128) == [0]


def test_options_refuse_what_cannot_be_tiled() -> None:
    for bad in ({"tile": 100}, {"tile": 64}, {"tile": 128, "overlap": 128}):
        with pytest.raises(UsageError):
            Options(**bad)  # type: ignore[arg-type]


def picture(array: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))


def test_psnr_is_the_formula() -> None:
    a, b = np.full((8, 8, 3), 100), np.full((8, 8, 3), 110)
    assert psnr(picture(a), picture(b)) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(picture(a), picture(a)) == float("inf")


def test_metrics_grow_worse_with_the_noise() -> None:
    with Image.open("demo/photos/lr/chelsea.png") as file:
        clean = np.asarray(file.convert("RGB"), np.float32)
    pictures = [picture(clean + RNG.normal(0, sigma, clean.shape)) for sigma in (0, 5, 20)]
    reference = picture(clean)
    assert ssim(reference, reference) == pytest.approx(1.0)
    assert lpips(reference, reference) == pytest.approx(0.0, abs=1e-6)
    for metric, sign in ((psnr, -1), (ssim, -1), (lpips, 1)):
        values = [sign * metric(reference, noisy) for noisy in pictures]
        assert values == sorted(values) and len(set(values)) == 3
    assert lpips(pictures[0], pictures[2]) == pytest.approx(lpips(pictures[2], pictures[0]), rel=1e-4)
