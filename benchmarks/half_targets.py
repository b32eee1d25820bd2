"""Do float targets under bfloat16 autocast show? How far they are from float32's, and what is learned from them.

    python benchmarks/half_targets.py --model demo/model --images demo/calib/lr --photos demo/photos/lr

PSNR is to the float32 chain's pictures, of one crop of each photo. Few steps: the question is a difference.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate import dqc
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.part import Model, Part
from torch import Tensor

Samples = list[dict[str, Tensor]]


def psnr(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Mean over pictures in [−1, 1], dB."""
    pairs = zip(found, expected, strict=True)
    errors = [float((a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean()) for a, b in pairs]
    return sum(10 * math.log10(4 / max(error, 1e-12)) for error in errors) / len(errors)


def pictures(model: Model, samples: Samples) -> list[Tensor]:
    return [model.run(sample)[model.parts[-1].output.name].float() for sample in samples]


run_all = dqc.run_all


def in_bfloat16(part: Part, samples: Samples, title: str) -> None:
    """Targets of the float part in half precision; everything else as it is."""
    half = title == "float targets"
    with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
        run_all(part, samples, title)
    for sample in samples:
        sample[part.output.name] = sample[part.output.name].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="to calibrate with")
    parser.add_argument("--photos", type=Path, required=True, help="to judge by")
    parser.add_argument("--limit", type=int, default=4, help="of each")
    arguments = parser.parse_args()
    spec = QuantSpec(method="learned", let_steps=8, lbq_steps=12, settle_steps=20, rounding="nearest")
    files, photos = (calibration_files(folder, arguments.limit) for folder in (arguments.images, arguments.photos))
    model = load_model(arguments.model)
    samples = crops([load_sources(path, model) for path in photos], model, 0, dqc.CROP)
    expected = pictures(model, samples)
    with torch.autocast("cpu", torch.bfloat16):
        print(
            f"the float chain in bfloat16: {psnr(pictures(model, samples), expected):.1f} dB to float32",
            flush=True,
        )
    for name, run in (("float32", run_all), ("bfloat16", in_bfloat16)):
        model = load_model(arguments.model)
        with mock.patch.object(dqc, "run_all", run):
            calibration = dqc.learn_calibration(model, spec, files)
        with contextlib.ExitStack() as modes:
            for part in model.parts:
                calibration.apply(part)
                modes.enter_context(part.mode(Mode.FAKE))
            found = psnr(pictures(model, samples), expected)
        print(f"W8A8 learned from {name} targets: {found:.2f} dB to float32", flush=True)


if __name__ == "__main__":
    main()
