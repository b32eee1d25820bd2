"""What a picture will take, known before it is begun: engines' weights, a tile's activations, the picture itself.

    peak = BASE + WEIGHTS · weights + activations at 512² · tile pixels / 512² + PICTURE · picture pixels

Activations are read from the compiled engines (engines/memory.py) and grow with the tile's area, since attention
is fused. The constants were measured on the demo model and at Stable Diffusion 2.1's size.
"""

from __future__ import annotations

from dataclasses import dataclass

from passionsr_trt.engines.bundle import REFERENCE_SIZE, EngineBundle
from passionsr_trt.engines.graph_files import part_files

BASE = 250e6  # Python, OpenVINO, its compiler's leavings
WEIGHTS = 1.1  # OpenVINO's own copies, in its layouts
PICTURE = 60.0  # bytes a pixel: source and result in float32, the one being read, the one being written


@dataclass(frozen=True)
class MemoryModel:
    """weights: bytes of all engines. activations: bytes of all parts' at 512×512, which OpenVINO keeps apart."""

    weights: int
    activations: int

    @classmethod
    def of(cls, bundle: EngineBundle) -> MemoryModel | None:
        """None where the build did not note the activations."""
        activations = [figures.get("activation_bytes", 0) for figures in bundle.coverage.values()]
        if not all(activations):
            return None
        files = (file for part in bundle.parts for file in part_files(bundle.folder / part.file))
        return cls(sum(file.stat().st_size for file in files), sum(activations))

    def predict(self, tile: tuple[int, int], picture: tuple[int, int]) -> int:
        """Peak bytes for a picture of (height, width) output pixels in tiles of (height, width)."""
        area = tile[0] * tile[1] / REFERENCE_SIZE**2
        base = BASE + WEIGHTS * self.weights + PICTURE * picture[0] * picture[1]
        return round(base + self.activations * area)
