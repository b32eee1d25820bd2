"""How far tiles of a network have to overlap: as far as it sees, measured.

A picture is cut in two, and the one half is compared with the same half of the whole picture. With D the distance
from the cut, in output pixels, up to which they are more than VISIBLE apart, tiles that overlap by 2·D are blended
where both are right. What lies everywhere (attention of pooled channels sees the whole picture) no overlap mends:
it is taken off first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 64  # of a half, low-resolution pixels
VISIBLE = 1.0  # of 255, root mean square along the cut
LEAST, MOST = 32, 192  # output pixels: below, a seam shows in other pictures; above, tiles cost more than they win


@torch.no_grad()
def seam_overlap(run: Callable[[Tensor], Tensor], multiple: int, scale: int) -> int:
    """Output pixels, a multiple of 16.

    run: lr [1, 3, h, w] → picture [1, 3, s·h, s·w], both in [−1, 1]; multiple: of lr's sides.
    """
    side = -(-SIDE // multiple) * multiple
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.rand(1, 3, side // cut, 2 * side // cut, generator=generator) * 2 - 1 for cut in (8, 1))
    lr = (F.interpolate(coarse, size=(side, 2 * side), mode="bicubic") + 0.3 * fine).clamp(-1, 1)
    whole, half = run(lr)[..., : side * scale].clamp(-1, 1), run(lr[..., :side].contiguous()).clamp(-1, 1)
    apart = ((whole - half) * 127.5).square().mean((0, 1, 2)).sqrt().flip(0)  # by the distance from the cut
    everywhere = apart[apart.shape[0] // 2 :].median()
    seen = ((apart - everywhere) > VISIBLE).nonzero()
    distance = int(seen.max()) + 1 if len(seen) else 0
    return min(max(-(-2 * distance // 16) * 16, LEAST), MOST)
