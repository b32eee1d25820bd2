"""Room for large tensors that are used up before the next are made.

A fresh tensor of a weight's size costs more than what is computed in it: the system clears every page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch:
    """float32 room that grows to what was asked for; what it gave before is overwritten."""

    def __init__(self) -> None:
        self.room: Tensor | None = None

    def take(self, shapes: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
        """Contiguous tensors of these shapes, with whatever stands in them."""
        sizes = [math.prod(shape) for shape in shapes]
        if self.room is None or self.room.device != device or self.room.numel() < sum(sizes):
            self.room = None  # the old one goes first
            self.room = torch.empty(sum(sizes), device=device)
        pieces = self.room[: sum(sizes)].split(sizes)
        return [piece.view(*shape) for piece, shape in zip(pieces, shapes, strict=True)]
