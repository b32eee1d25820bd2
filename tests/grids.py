"""How much of a picture's fine structure repeats every few pixels: a decoder trained too short leaves a grid."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def period_share(image: Image.Image, period: int = 8) -> float:
    """Of the luminance minus its 9×9 mean: the deviation of the mean cell over that of all pixels, 0 to 1.

    A cell is a square of `period` pixels; where nothing repeats, the mean over n cells has about 1/√n.
    """
    grey = image.convert("L")
    residue = np.asarray(grey, np.float64) - np.asarray(grey.filter(ImageFilter.BoxBlur(4)), np.float64)
    rows, columns = (side // period for side in residue.shape)
    cells = residue[: rows * period, : columns * period].reshape(rows, period, columns, period)
    return float(cells.mean((0, 2)).std() / cells.std())
