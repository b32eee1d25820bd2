"""Colour fix, tiles and metrics on arrays."""

from __future__ import annotations

import numpy as np
import pytest
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, TensorInfo
from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.colour import adain, align, low_pass, wavelet
from passionsr_trt.runtime.core.metrics import lpips, psnr, ssim
from passionsr_trt.runtime.core.planning import Options, check_options
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


def test_options_refuse_what_cannot_be_tiled() -> None:
    image, latent = TensorInfo("image", 3, 1), TensorInfo("latent", 3, 8)
    parts = (
        PartInfo("first", "", (image,), latent, 64),
        PartInfo("last", "", (latent,), TensorInfo("out", 3, 1), 8),
    )
    chain = Chain(ModelInfo("", "none", 1, "none"), parts, HostExecutor({}), "none")
    check_options(Options(tile=128, overlap=64), chain)
    for bad in ({"tile": 100}, {"tile": 64}, {"tile": 128, "overlap": 128}, {"overlap": 12}, {"overlap": 456}):
        with pytest.raises(UsageError):
            check_options(Options(**bad), chain)  # type: ignore[arg-type]


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
