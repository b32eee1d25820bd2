"""What a picture will take, known before it is begun: engines' weights, a tile's activations, the picture itself.

    peak = BASE + WEIGHTS · weights + Σ activations at 512² · pixels at once / 512² + PICTURE · picture pixels

With several streams each has activations of its own and takes STREAM beside them, and one picture more is held.

Activations are read from the compiled engines (openvino/compile.py) and grow with the tile's area. Attention is
fused, or its scores (a wide head's, on an eighth of the sides) fit where the largest tensors lie, up to about
1,250×1,250 pixels at Stable Diffusion's size. Larger tiles, which only --tile asks for, take more than is
predicted. The constants were measured on the demo model and at Stable Diffusion 2.1's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.wiring import REFERENCE_SIZE
from passionsr_trt.engines.common.free_memory import free_memory

BASE = 260e6  # Python, decoders of pictures, OpenVINO, its compiler's leavings
WEIGHTS = 1.1  # OpenVINO's own copies, in its layouts
STREAM = 250e6  # each stream after the first: 120 to 190 MB were measured, from 256² to 1024²
PICTURE = 60.0  # bytes a pixel: source and result in float32, the one being read, the one being written


@dataclass(frozen=True)
class HostMemory:
    """Bytes: of all engines' weights, of each part's activations at 512×512, which OpenVINO keeps apart; free:
    what there was for the whole process before anything was loaded. streams: pictures or tiles at once; they share
    the weights, and another picture waits.
    """

    weights: int
    activations: dict[str, int]
    free: int
    streams: int = 1

    @classmethod
    def of(cls, bundle: EngineBundle, streams: int = 1) -> HostMemory:
        activations = {name: figures.activation_bytes for name, figures in bundle.coverage.items()}
        listed = (entry for part in bundle.parts for entry in bundle.listed(part).values())
        return cls(sum(entry["size"] for entry in listed), activations, free_memory(), streams)

    def predict(self, picture: int, at_once: Mapping[str, int]) -> int:
        """Peak bytes from output pixels: the picture's, and what each part's engine gets at once."""
        pictures = 1 if self.streams == 1 else self.streams + 1
        total = BASE + WEIGHTS * self.weights + PICTURE * picture * pictures + STREAM * (self.streams - 1)
        for name, activations in self.activations.items():
            total += self.streams * activations * at_once[name] / REFERENCE_SIZE**2
        return round(total)
