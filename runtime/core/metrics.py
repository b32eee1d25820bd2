"""Image metrics on 8-bit RGB: PSNR, SSIM (scikit-image), LPIPS (AlexNet, as an ONNX graph)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.pictures.pictures import to_array
from PIL import Image

LPIPS_GRAPH = Path(__file__).with_name("lpips_alex.onnx")
METRICS = ("psnr", "ssim", "lpips")


def psnr(first: Image.Image, second: Image.Image) -> float:
    """10·log10(255² / MSE) over all channels, in dB; infinite for equal images."""
    a, b = (np.asarray(image, np.float64) for image in (first, second))
    error = np.mean((a - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(first: Image.Image, second: Image.Image) -> float:
    """Mean structural similarity over channels, Gaussian window σ = 1.5 (Wang et al., 2004)."""
    from skimage.metrics import structural_similarity

    a, b = np.asarray(first), np.asarray(second)
    return float(
        structural_similarity(
            a,
            b,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
    )


@cache
def _lpips_session() -> Any:
    from passionsr_trt.engines.graph.reference import reference_session

    return reference_session(LPIPS_GRAPH)


def lpips(first: Image.Image, second: Image.Image) -> float:
    """LPIPS v0.1 with AlexNet; 0 for equal images, smaller is closer. Sides of at least 32 pixels."""
    feed = {"first": to_array(first)[None], "second": to_array(second)[None]}
    return float(np.ravel(_lpips_session().run(None, feed)[0])[0])


def measure(first: Image.Image, second: Image.Image) -> dict[str, float]:
    """All metrics of one pair of equally sized images."""
    return {"psnr": psnr(first, second), "ssim": ssim(first, second), "lpips": lpips(first, second)}


def summarize(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean and worst of each metric over images."""
    result: dict[str, float] = {}
    for name in METRICS:
        values = [row[name] for row in rows]
        result[name] = float(np.mean(values))
        result[f"{name}_worst"] = float(max(values) if name == "lpips" else min(values))
    return result
