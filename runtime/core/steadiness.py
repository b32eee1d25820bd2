"""Do the frames of a clip agree? Flicker of one rendering beside another, and differences along what moves.

Frames are float32 [3, H, W] in [0, 1]; figures are in codes of 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CODES = 255.0
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # BT.709
SEEN = 0.2  # of a frame's pixels: where fewer can be followed from the one before, there is a cut


@dataclass(frozen=True)
class Motion:
    """From a frame to the one before it. rows, columns: where each pixel was, float32 [H, W]; seen: bool [H, W],
    it was to be seen there.
    """

    rows: np.ndarray
    columns: np.ndarray
    seen: np.ndarray

    def warped(self, earlier: np.ndarray) -> np.ndarray:
        """The earlier frame [C, H, W], of the motion's size or `n` times it, moved to where its pixels are now."""
        from scipy.ndimage import map_coordinates

        rows, columns = (_enlarged(place, earlier.shape[1:]) for place in (self.rows, self.columns))
        places = np.indices(earlier.shape[1:], np.float32) + np.stack([rows, columns])
        return np.stack([map_coordinates(channel, places, order=1, mode="nearest") for channel in earlier])

    def seen_at(self, size: tuple[int, int]) -> np.ndarray:
        """bool of another size."""
        rows, columns = (np.arange(side) * own // side for side, own in zip(size, self.seen.shape, strict=True))
        return self.seen[np.ix_(rows, columns)]


def _enlarged(shift: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Displacements for a frame of `size`: bilinear between pixel centres, and as much longer."""
    from scipy.ndimage import zoom

    factor = size[0] / shift.shape[0]
    if shift.shape == size:
        return shift
    zooms = [side / own for side, own in zip(size, shift.shape, strict=True)]
    enlarged = zoom(shift, zooms, order=1, mode="nearest", grid_mode=True)
    return np.asarray(enlarged * np.float32(factor), np.float32)


def motion(earlier: np.ndarray, later: np.ndarray) -> Motion:
    """By iterative Lucas-Kanade flow (scikit-image) of the luminance [H, W], both ways.

    A pixel is followed where both ways agree (Sundaram, Brox and Keutzer, ECCV 2010, eq. 5).
    """
    from skimage.registration import optical_flow_ilk

    first, second = (np.tensordot(LUMA, frame, 1) for frame in (earlier, later))
    back = np.asarray(optical_flow_ilk(second, first), np.float32)
    forth = np.asarray(optical_flow_ilk(first, second), np.float32)
    there = Motion(back[0], back[1], np.ones(first.shape, bool))
    returned = there.warped(forth)
    apart = np.square(back + returned).sum(0)
    size = np.square(back).sum(0) + np.square(returned).sum(0)
    inside = _inside(back)
    return Motion(back[0], back[1], inside & (apart <= 0.01 * size + 0.5))


def _inside(shift: np.ndarray) -> np.ndarray:
    """Does each pixel come from within the frame?"""
    places = np.indices(shift.shape[1:]) + shift
    last = np.array(shift.shape[1:])[:, None, None] - 1
    return np.asarray(((places >= 0) & (places <= last)).all(0))


class Steadiness:
    """Of two renderings of one clip, frame by frame: an expected one and the one that is tested."""

    def __init__(self) -> None:
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.flicker: list[float] = []
        self.expected: list[float] = []
        self.tested: list[float] = []
        self.cuts = 0

    def add(self, given: np.ndarray, expected: np.ndarray, tested: np.ndarray) -> None:
        """The next frame: of the clip, whose motion counts for both, and as each renders it (one size)."""
        if self._before is not None:
            before, expected_before, tested_before = self._before
            change = (tested - expected) - (tested_before - expected_before)
            self.flicker.append(rms(change))
            moved = motion(before, given)
            if moved.seen.mean() < SEEN:
                self.cuts += 1
            else:
                seen = moved.seen_at(expected.shape[1:])
                self.expected.append(rms((expected - moved.warped(expected_before))[:, seen]))
                self.tested.append(rms((tested - moved.warped(tested_before))[:, seen]))
        self._before = given, expected, tested

    def figures(self) -> dict[str, float]:
        """flicker: root mean square of the change, from frame to frame, of what is tested minus what is expected;
        the mean over frames, and the worst. warped_…: root mean square of a frame minus the one before along the
        clip's motion (Lai et al., ECCV 2018), means. Empty of a single frame.
        """
        found: dict[str, float] = {}
        if self.flicker:
            found |= {"flicker": float(np.mean(self.flicker)), "flicker_worst": max(self.flicker)}
        if self.expected:
            found |= {"warped_float": float(np.mean(self.expected)), "warped_tested": float(np.mean(self.tested))}
        return found | {"cuts": self.cuts}


def rms(values: np.ndarray) -> float:
    """Root mean square in codes."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()) * CODES)
