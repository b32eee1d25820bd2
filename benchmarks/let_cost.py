"""What does LET cost in the engines? The same graph without LET, with its scales, and with its shifts too.

    python benchmarks/let_cost.py --model demo/model --calibration calib_cache/KEY -o out/let_cost

Latency: OpenVINO, three chains alternating in one run. Kernels and bytes: TensorRT-RTX's own layer list, compiled
without a GPU. The pictures of the first two are wrong: only the graphs matter here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from own_commands import command
from passionsr_trt.engines.bundle.bundles import EngineBundle, part_names
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.runtime.benchmark import conditions, measure, random_sources
from passionsr_trt.runtime.loading import open_engines

THREADS = 2
VARIANTS = ("without LET", "scales", "scales and shifts")


def variant(calibration: Calibration, name: str) -> Calibration:
    """The calibration with less LET in it; all quantizers stay."""
    tensors = dict(calibration.tensors)
    for key in list(tensors):
        if name == "without LET" and ".let_" in key:
            del tensors[key]
        elif name == "scales" and key.endswith(".let_shift"):
            tensors[key] = torch.zeros_like(tensors[key])
        elif name == "scales" and key.endswith(".let_anchor"):
            del tensors[key]
    return Calibration(calibration.model_digest, calibration.spec, calibration.data_digest, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="a learned calibration's folder")
    parser.add_argument("--compute-capability", default="8.9")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    calibration = Calibration.load(arguments.calibration)
    chains, listed = [], {}
    for name in VARIANTS:
        folder = arguments.output / name.replace(" ", "_")
        variant(calibration, name).save(folder / "calibration")
        common = ("export", arguments.model, "--calibration", folder / "calibration")
        command(*common, "-o", folder / "onnx")
        command(*common, "--precision", "fp16", "-o", folder / "onnx16")
        command("build-engines", folder / "onnx", "-o", folder / "openvino")
        rtx = ("--backend", "tensorrt-rtx", "--compute-capability", arguments.compute_capability)
        command("build-engines", folder / "onnx16", *rtx, "-o", folder / "rtx")
        chains.append(open_engines(EngineBundle.load(folder / "openvino"), THREADS))
        chains[-1].label = name
        listed[name] = {
            part: {"kernels": sum(figures.kernels.values()), "bytes": figures.bytes_moved}
            for part, figures in EngineBundle.load(folder / "rtx").coverage.items()
        }
    wiring = chains[0].parts
    times = measure(chains, part_names(wiring), random_sources(wiring, (512, 512)), arguments.runs)
    base = times[VARIANTS[0]]
    report: dict[str, dict[str, dict[str, float]]] = {
        name: {
            part: {
                "milliseconds": 1e3 * float(np.median(seconds)),
                "ratio": float(np.median(np.array(seconds) / np.array(base[part]))),
                **listed[name].get(part, {}),
            }
            for part, seconds in times[name].items()
        }
        for name in VARIANTS
    }
    text = json.dumps(
        {"conditions": conditions((512, 512), THREADS, arguments.runs), "variants": report}, indent=1
    )
    (arguments.output / "let_cost.json").write_text(text + "\n")
    print(f"{'':<20}{'part':<14}{'ms':>8}{'ratio':>8}{'kernels':>9}{'MB':>9}")
    for name, parts in report.items():
        for part, row in parts.items():
            kernels, moved = row.get("kernels", ""), row.get("bytes", 0.0)
            megabytes = f"{moved / 1e6:.1f}" if moved else ""
            print(f"{name:<20}{part:<14}{row['milliseconds']:>8.1f}{row['ratio']:>8.3f}{kernels:>9}{megabytes:>9}")


if __name__ == "__main__":
    main()
