"""Where should FP8's boundaries lie, and does a shift pay? Fake quantization of a model on pictures, in PyTorch.

    python benchmarks/fp8_boundaries.py --model demo/model --calibration calib_cache/KEY demo/photos/lr

Rows: the learned boundary as it is, several times as far out, and the largest value that the float model shows on
the pictures; with LET's shifts and without; weights by their rows' largest values and by the learned boundaries.
Mean and worst PSNR to the float model, a crop of every picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from passionsr_trt.export.calibrate.data import load_sources
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.quantize import recast
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.formats import FP8, INT8
from passionsr_trt.export.quantize.hooks import watching_outputs
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.part import Model, Tensors
from passionsr_trt.runtime.images import list_images
from torch import Tensor

CROP = 192  # of the chain's input


@contextmanager
def recasting(headroom: float, candidates: int) -> Iterator[None]:
    """Other constants of recast while the context lasts."""
    before = recast.HEADROOM, recast.CANDIDATES
    recast.HEADROOM, recast.CANDIDATES = headroom, candidates
    try:
        yield
    finally:
        recast.HEADROOM, recast.CANDIDATES = before


class Variants:
    """One model, one calibration, the pictures, and the float results."""

    def __init__(self, folder: Path, calibration: Calibration, pictures: list[Path]) -> None:
        self.folder, self.calibration = folder, calibration
        model = load_model(folder)
        self.pictures: list[Tensors] = [
            {name: x[:, :, :CROP, :CROP] for name, x in load_sources(path, model).items()} for path in pictures
        ]
        self.expected = [self._result(model, picture) for picture in self.pictures]

    def fp8(self, headroom: float, shifts: bool = False, candidates: int = 1) -> Calibration:
        with recasting(headroom, candidates):
            found = recast.recast(self.calibration, load_model(self.folder).parts, FP8)
        if shifts:  # as INT8's: the boundary around what is shifted, the shifts themselves
            _low, top = INT8.of_activations(self.calibration.spec)
            for key, value in self.calibration.tensors.items():
                if key.endswith("let_shift"):
                    found.tensors[key] = value
                if key.endswith("activation_scale"):
                    found.tensors[key] = value * top * headroom / FP8.high
        return found

    def by_learned_rows(self) -> Calibration:
        found, limit = self.fp8(recast.HEADROOM), self.calibration.spec.weight_code_max
        rows = {key: value for key, value in self.calibration.tensors.items() if key.endswith("weight_scale")}
        return replace(found, tensors={**found.tensors, **{key: x * limit / FP8.high for key, x in rows.items()}})

    def observed(self) -> Calibration:
        """Boundaries at the largest value of every port on these pictures."""
        found = self.fp8(1.0)
        model, reach = self._applied(found), dict[str, float]()

        def watch(name: str, output: Tensor) -> None:
            reach[name] = max(reach.get(name, 0.0), float(output.abs().max()))

        ports = [named for part in model.parts for named in part.sites() if named.name == named.port_name]
        with watching_outputs((named.site.port, partial(watch, named.name)) for named in ports):
            for picture in self.pictures:
                model.run(picture)
        scales = {f"{name}.activation_scale": torch.tensor(top / FP8.high) for name, top in reach.items()}
        return replace(found, tensors={**found.tensors, **{k: x for k, x in scales.items() if k in found.tensors}})

    def row(self, name: str, calibration: Calibration) -> None:
        """Print one row."""
        model = self._applied(calibration)
        with ExitStack() as modes:
            for part in model.parts:
                modes.enter_context(part.mode(Mode.FAKE))
            found = [self._result(model, picture) for picture in self.pictures]
        errors = [float((a - b).square().mean()) for a, b in zip(self.expected, found, strict=True)]
        psnr = 10 * torch.log10(255**2 / torch.tensor(errors).clamp_min(1e-6))
        print(f"{name:<48} {psnr.mean():6.2f} dB, worst {psnr.min():6.2f}", flush=True)

    def _applied(self, calibration: Calibration) -> Model:
        model = load_model(self.folder)
        for part in model.parts:
            calibration.apply(part)
        return model

    @staticmethod
    def _result(model: Model, picture: Tensors) -> Tensor:
        return (model.run(picture)[model.parts[-1].output.name].clamp(-1, 1) * 127.5 + 127.5).round()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="learned, of 8 bits")
    arguments = parser.parse_args()
    variants = Variants(arguments.model, Calibration.load(arguments.calibration), list_images(arguments.pictures))
    variants.row("INT8", variants.calibration)
    for headroom in (1.0, recast.HEADROOM):
        for shifts in (True, False):
            name = f"FP8, {headroom:g} × the boundary, {'with' if shifts else 'no'} shifts"
            variants.row(name, variants.fp8(headroom, shifts))
    variants.row("FP8, the largest value seen, no shifts", variants.observed())
    variants.row("FP8, rows by the learned boundaries", variants.by_learned_rows())
    variants.row(
        "FP8, rows hit best (what export does)", variants.fp8(recast.HEADROOM, candidates=recast.CANDIDATES)
    )


if __name__ == "__main__":
    main()
