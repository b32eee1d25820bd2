"""The float graphs with nearest enlargements in front of their convolutions, as the model's authors wrote them.

    python benchmarks/as_written.py MODEL -o FOLDER

What other tools start from, and what the sub-pixel form (export/quantize/sub_pixel.py) is measured against.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.onnx.bundle import export_bundle
from passionsr_trt.export.onnx.to_onnx import ExportPlan
from passionsr_trt.export.quantize.sub_pixel import as_written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    for part in model.parts:
        as_written(part.module)
    export_bundle(model, None, ExportPlan(), arguments.output, consume=True)


if __name__ == "__main__":
    main()
