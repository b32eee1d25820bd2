"""Colours under transparency: nobody sees them, and a network would draw them into what is seen.

An editor may leave anything there. So a hidden pixel gets the colour of what is visible around it, from near if
there is something near (push-pull over a pyramid: means of 2×2 pixels weighted by alpha, down to one and back).
"""

from __future__ import annotations

import numpy as np


def fill_hidden(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`colours` [H, W, 3] with those changed where `alpha` [H, W] is 0, both unsigned; black where all of it is.

    What comes depends on visible colours and alpha alone; the same array where nothing is hidden.
    """
    hidden = alpha == 0
    if not hidden.any():
        return colours
    weights = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    around = _smooth(*_halved(colours, weights))
    result = colours.copy()
    for channel in range(3):  # one by one: a float of every pixel is large
        result[..., channel][hidden] = np.rint(_doubled(around[..., channel], hidden.shape)[hidden])
    return result


def _smooth(colours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Colours [h, w, 3] float32 with what has little weight taken from further away."""
    if weights.size == 1:
        return colours
    around = _doubled(_smooth(*_halved(colours, weights)), weights.shape)
    around += (colours - around) * weights[..., None]
    return around


def _halved(colours: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means of 2×2 pixels and their weights, 1 at most; what has no weight is 0."""
    height, width = (-(-side // 2) for side in weights.shape)
    total, weight = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = weights[row::2, column::2]
        total[: part.shape[0], : part.shape[1]] += colours[row::2, column::2] * part[..., None]
        weight[: part.shape[0], : part.shape[1]] += part
    np.divide(total, weight[..., None], out=total, where=weight[..., None] > 0)
    return total, np.minimum(weight, 1, out=weight)


def _doubled(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bilinear, [h, w, …] to twice that, cut to `size`."""
    for axis, side in enumerate(size):
        moved = np.moveaxis(values, axis, 0)
        before, after = np.concatenate([moved[:1], moved[:-1]]), np.concatenate([moved[1:], moved[-1:]])
        larger = np.empty((2 * len(moved), *moved.shape[1:]), np.float32)
        larger[0::2] = 0.75 * moved + 0.25 * before
        larger[1::2] = 0.75 * moved + 0.25 * after
        values = np.moveaxis(larger[:side], 0, axis)
    return values
