"""import-calibration: PassionSR's calibrated checkpoints → calibration."""

from __future__ import annotations

import argparse
from pathlib import Path

from passionsr_trt.engines.common.arguments import CALIBRATIONS, some_path
from passionsr_trt.engines.common.counted import counted
from passionsr_trt.engines.common.next_step import say_next


def add_import_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="model folder with the weights that the files were calibrated on")
    parser.add_argument("--unet", type=Path, required=True, help="unet_ckpt_merge_saw_sep.pth")
    parser.add_argument("--vae", type=Path, required=True, help="vae_ckpt_merge_saw_sep.pth")
    parser.add_argument(
        "--bits", type=int, choices=(8, 6), required=True, help="what the files were calibrated for"
    )
    parser.add_argument(
        "--cache", type=some_path, default=CALIBRATIONS, help="where calibrations are kept, by content"
    )
    parser.set_defaults(run=run_import_calibration)


def run_import_calibration(arguments: argparse.Namespace) -> int:
    from passionsr_trt.export.families.stable_diffusion.chain import build_model
    from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
    from passionsr_trt.export.families.stable_diffusion.passionsr import import_calibration

    model = OneStepModel.load(arguments.model)
    calibration, report = import_calibration(
        model, build_model(model), arguments.unet, arguments.vae, arguments.bits
    )
    folder = arguments.cache / calibration.key
    calibration.save(folder)
    for line in report.lines():
        print(f"  {line}")
    print(f"{folder}: {counted(len(calibration.quant.sites), 'site')}")
    say_next("export", arguments.model, "--calibration", folder, "-o", Path("out", "onnx", "int8"))
    return 0
