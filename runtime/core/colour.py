"""Colour fix: give the result the low-resolution image's colours. Arrays are [3, H, W] float32 in [-1, 1]."""

from __future__ import annotations

import numpy as np
from passionsr_trt.engines.bundle.wiring import ADAIN_EPSILON, WAVELET_LEVELS


def align(result: np.ndarray, source: np.ndarray, method: str) -> np.ndarray:
    """`result` with the colours of `source` (the bicubic enlargement, same shape)."""
    if method == "adain":
        return adain(result, source)
    if method == "wavelet":
        return wavelet(result, source)
    return result


def adain(result: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Per channel: (x − μ_x)/σ_x · σ_s + μ_s."""
    axes = (1, 2)
    mean, deviation = result.mean(axes, keepdims=True), result.std(axes, keepdims=True) + ADAIN_EPSILON
    gain = source.std(axes, keepdims=True) / deviation
    return result * gain + (source.mean(axes, keepdims=True) - mean * gain)


def wavelet(result: np.ndarray, source: np.ndarray, levels: int = WAVELET_LEVELS) -> np.ndarray:
    """High frequencies of the result on the low frequencies of the source (à-trous)."""
    return result - low_pass(result, levels) + low_pass(source, levels)


def low_pass(x: np.ndarray, levels: int) -> np.ndarray:
    """Repeated [1 2 1]/4 blur, the step doubling each level, edges replicated."""
    for level in range(levels):
        step = 2**level
        for axis in (1, 2):
            pad = [(0, 0), (0, 0), (0, 0)]
            pad[axis] = (step, step)
            padded = np.pad(x, pad, mode="edge")
            size = x.shape[axis]
            first, last = (np.take(padded, range(start, start + size), axis) for start in (0, 2 * step))
            x = 0.25 * first + 0.5 * x + 0.25 * last
    return x
