"""The test images of quality.py with everything that is the same for all methods, kept between them.

Besides the given ones, pictures unlike photos that the package draws (engines/pictures/drawn_set.py): they have no
originals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dists import Dists
from passionsr_trt.engines.pictures.drawn_set import drawn_set
from passionsr_trt.engines.pictures.files import find_pictures
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.runtime.apps.compare import find_truths
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.metrics import measure
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image
from torch import Tensor
from tqdm import tqdm

OPTIONS = Options(align="none")
DRAWN_SIDE = 128  # low-resolution pixels


@dataclass
class TestImage:
    """One picture: low resolution, original, the float chain's output; DISTS features of the last two."""

    name: str
    low: Image.Image
    truth: Image.Image
    expected: Image.Image
    float_to_truth: dict[str, float]
    features: tuple[list[Tensor], list[Tensor]] | None


class TestSet:
    """All test images, equal sizes together so that engines are compiled once for each."""

    def __init__(self, folders: list[tuple[str, Path, Path]], reference: Chain, metrics: Path | None) -> None:
        self.dists = Dists(metrics) if metrics else None
        pairs = []
        for name, low_folder, high_folder in folders:
            images = find_pictures([low_folder])[0]
            truths = find_truths(images, high_folder)
            pairs += [(f"{name}/{image.path.stem}", image.path, truths[image.path]) for image in images]
        loaded = [(name, read_picture(low).rgb, read_picture(high).rgb) for name, low, high in pairs]
        loaded.sort(key=lambda entry: (entry[1].size, entry[0]))
        self.drawn = [
            (name, low, super_resolve(reference, low, OPTIONS).image)
            for name, low in drawn_set(DRAWN_SIDE).items()
        ]
        self.images = []
        for name, low, truth in tqdm(loaded, desc="float outputs", unit="image"):
            expected = super_resolve(reference, low, OPTIONS).image
            features, figures = None, dict(measure(truth, expected))
            if self.dists is not None:
                features = (self.dists.features(expected), self.dists.features(truth))
                figures["dists"] = self.dists.distance(*features)
            self.images.append(TestImage(name, low, truth, expected, figures, features))

    def measure(self, chain: Chain) -> dict[str, dict[str, Any]]:
        """Metrics of a chain's output to the float output and to the original; of the float one, too."""
        result: dict[str, dict[str, Any]] = {}
        with tqdm(self.images, desc=chain.label, unit="image") as progress:
            for image in progress:
                found = super_resolve(chain, image.low, OPTIONS).image
                row: dict[str, Any] = {
                    "to_float": dict(measure(image.expected, found)),
                    "to_truth": dict(measure(image.truth, found)),
                    "float_to_truth": image.float_to_truth,
                }
                if self.dists is not None and image.features is not None:
                    expected, truth = image.features
                    own = self.dists.features(found)
                    row["to_float"]["dists"] = self.dists.distance(expected, own)
                    row["to_truth"]["dists"] = self.dists.distance(truth, own)
                result[image.name] = row
                progress.set_postfix_str(f"{row['to_float']['psnr']:.1f} dB")
        return result

    def measure_drawn(self, chain: Chain) -> dict[str, dict[str, float]]:
        """Metrics of a chain's drawn pictures to the float output."""
        return {
            name: dict(measure(expected, super_resolve(chain, low, OPTIONS).image))
            for name, low, expected in self.drawn
        }
