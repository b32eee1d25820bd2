"""Attention in windows, for any picture and any batch.

The authors' code cannot be exported for any picture: it draws a picture of regions for every size, and finds the
batch by dividing floats. Here masks are two constants, and shapes follow from shapes.
After a cyclic shift only the last row and the last column of windows hold tokens that were no neighbours. A token
may not see another one of its window that lies on the other side of the seam:

| window           | 0 where                    | −100 where                            |
| ---------------- | -------------------------- | ------------------------------------- |
| inside           | everywhere                 |                                       |
| last row         | both above or both below   | one above, one below                  |
| last column      | both left or both right    | one left, one right                   |
| last of both     | both hold                  | either does not                       |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = -100.0  # what is added to a score, as in Swin Transformer's code
Pair = tuple[int, int]


def shift_mask(size: Pair, window: Pair, shift: Pair, device: torch.device | None = None) -> Tensor:
    """[windows, tokens, tokens] for a picture of `size` positions, a multiple of `window` (height, width).

    device: by default the host, for an author's code that moves it itself.
    Equal to the mask that Swin Transformer's calculate_mask makes, number by number.
    """
    down, across = size[0] // window[0], size[1] // window[1]
    rows = torch.arange(window[0], device=device) >= window[0] - shift[0]
    columns = torch.arange(window[1], device=device) >= window[1] - shift[1]
    below = rows[:, None].expand(window).flatten()
    right = columns[None, :].expand(window).flatten()
    last_row, last_column = (HIDDEN * (side[:, None] != side[None, :]).float()[None] for side in (below, right))
    of_rows = F.pad(last_row, (0, 0, 0, 0, down - 1, 0))
    of_columns = F.pad(last_column, (0, 0, 0, 0, across - 1, 0))
    both = torch.minimum(of_rows[:, None], of_columns[None])
    tokens = window[0] * window[1]
    return both.reshape(down * across, tokens, tokens)


def to_windows(x: Tensor, window: Pair) -> Tensor:
    """[B, H, W, C] → [B·windows, tokens, C], windows and tokens row by row."""
    batch, height, width, channels = x.shape
    down, across = height // window[0], width // window[1]
    x = x.reshape(batch, down, window[0], across, window[1], channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, window[0] * window[1], channels)


def from_windows(windows: Tensor, window: Pair, size: Pair) -> Tensor:
    """[B·windows, tokens, C] → [B, H, W, C]."""
    down, across, channels = size[0] // window[0], size[1] // window[1], windows.shape[2]
    x = windows.reshape(-1, down, across, window[0], window[1], channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, size[0], size[1], channels)


def in_windows(x: Tensor, window: Pair, shift: int, attend: Callable[[Tensor], Tensor]) -> Tensor:
    """`attend` on the windows of x [B, H, W, C], shifted cyclically before and back after."""
    size = (x.shape[1], x.shape[2])
    if shift:
        x = torch.roll(x, (-shift, -shift), (1, 2))
    x = from_windows(attend(to_windows(x, window)), window, size)
    return torch.roll(x, (shift, shift), (1, 2)) if shift else x
