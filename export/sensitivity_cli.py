"""sensitivity: model folder + calibration → which sites cost the most, and a calibration within a budget."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.common.arguments import decibels, some_input, some_path, whole
from passionsr_trt.engines.common.counted import counted
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.export.cli import add_device, add_own_calibration, own_calibration

if TYPE_CHECKING:
    from passionsr_trt.export.calibrate.sensitivity import Probe, Sensitivity
    from passionsr_trt.export.quantize.calibration import Calibration

SENSITIVITY_CROP = 128  # pixels of the chain's input: hundreds of chains are run


def add_sensitivity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="model folder, or an image network's own file")
    parser.add_argument("--images", type=some_input, required=True, help="folder of low-resolution images")
    parser.add_argument(
        "--limit", type=whole(1), default=4, help="use one crop of the first N images; time grows with N"
    )
    add_own_calibration(parser)
    parser.add_argument("-o", "--output", type=some_path, required=True, help="folder for the report and the plot")
    parser.add_argument(
        "--budget",
        type=decibels,
        metavar="DB",
        help="keep the most sensitive sites float, as few as reach this PSNR to the float model on the crops; "
        "float sites cost speed. Writes OUTPUT/calibration and OUTPUT/spec.json",
    )
    add_device(parser)
    parser.set_defaults(run=run_sensitivity)


def run_sensitivity(arguments: argparse.Namespace) -> int:
    from passionsr_trt.export.calibrate import sensitivity
    from passionsr_trt.export.calibrate.compute import refuse_several
    from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
    from passionsr_trt.export.families.registry import check_model, load_model
    from passionsr_trt.export.families.weights import model_digest
    from passionsr_trt.export.model.devices import chosen_device, on_device, working_on

    refuse_several("sensitivity")
    device = chosen_device(arguments.device)
    files = calibration_files(arguments.images, arguments.limit)
    check_model(arguments.model)
    check_writable(arguments.output)
    digest = model_digest(arguments.model)
    calibration = own_calibration(arguments, digest)
    model = load_model(arguments.model)
    images = [load_sources(path, model) for path in files]
    images = crops(images, model, calibration.spec.seed, SENSITIVITY_CROP)
    with working_on(device, model.parts):
        probe = sensitivity.Probe(model, calibration, [on_device(image, device) for image in images])
        report = probe.report()
        write_report(report, [part.name for part in model.parts], arguments.output)
        if arguments.budget is not None:
            write_reduced(probe, report, calibration, arguments.budget, arguments.output)
    return 0


def write_report(report: Sensitivity, parts: list[str], output: Path) -> None:
    """sensitivity.json and sensitivity.png; what is printed is their head."""
    from passionsr_trt.export.calibrate import sensitivity

    output.mkdir(parents=True, exist_ok=True)
    (output / "sensitivity.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")
    sensitivity.draw(report, parts, output / "sensitivity.png")
    ports = counted(len(report.ports), "port")
    print(f"{report.psnr:.1f} dB to float with all of {ports} quantized; most sensitive:")
    for entry in report.ports[:10]:
        cost = f"alone {entry.psnr_alone:5.1f} dB, float {entry.gain_if_float:+.2f} dB"
        print(f"  {entry.port:<60} {cost}, {entry.clipped:.1%} clipped")
    print(f"sensitivity.json and sensitivity.png in {output}")


def write_reduced(
    probe: Probe, report: Sensitivity, calibration: Calibration, budget: float, output: Path
) -> None:
    """The calibration and the spec that leave as few ports float as reach the budget, dB."""

    kept, psnr = probe.within_budget([entry.port for entry in report.ports], budget)
    chosen = [entry for entry in report.ports if entry.port in kept]
    reduced = calibration.without([site for entry in chosen for site in entry.sites])
    reduced.save(output / "calibration")
    (output / "spec.json").write_text(json.dumps(reduced.spec.to_json(), indent=1) + "\n")
    share = sum(entry.macs_share for entry in chosen)
    print(f"{counted(len(kept), 'port')} float ({share:.1%} of the MACs): {psnr:.1f} dB")
    print(f"calibration and spec.json in {output}; export with --calibration")
