"""The float graphs with nearest enlargements in front of their convolutions, as the model's authors wrote them.

    python benchmarks/as_written.py MODEL -o FOLDER
    python benchmarks/as_written.py MODEL --images LOW_RES_PHOTOS -o FOLDER

What other tools start from, and what the sub-pixel form (export/quantize/sub_pixel.py) is measured against.
With pictures the graphs are INT8, by the ranges of two of them: this project's own without that form.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import calibration_files
from passionsr_trt.export.calibrate.ranges import calibrate
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.onnx.bundle import export_bundle
from passionsr_trt.export.onnx.to_onnx import ExportPlan
from passionsr_trt.export.quantize.sub_pixel import as_written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, help="INT8 instead of float: low-resolution pictures")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    for part in model.parts:
        as_written(part.module)
    calibration = None
    if arguments.images:
        spec = QuantSpec(method="range", activation_observer="minmax")
        calibration = calibrate(model, spec, calibration_files(arguments.images, 2))
    export_bundle(model, calibration, ExportPlan(), arguments.output, consume=True)


if __name__ == "__main__":
    main()
