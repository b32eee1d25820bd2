"""Everything at a published model's size, on this CPU: export, speed beside other tools, image sizes, threads.

    python benchmarks/full_scale.py --images demo/calib/lr --peers-python PEERS/bin/python -o out/full_scale
    python benchmarks/full_scale.py --images demo/calib/lr --family dit-sr --steps 15 -o out/full_scale_dit_sr

Random weights of the real shapes (sd21_model.py; resshift_model.py: SinSR's and ResShift's, DiT-SR's;
bidiffsr_model.py; --width makes them smaller): times and memory are the real model's, pictures mean nothing.
Rivals meet the INT8 engines one at a time (side_by_side.py --pairs).
A chain of several steps runs whole, every step by an engine of its own. It meets its float twin in float32 and in
bfloat16; graphs as written and other picture sizes are left to one step.
Stages whose results are there are left out. It takes 24 GB of memory.
--predict: engines for TensorRT-RTX as well, and what eight GPUs are predicted to take.
--peers-python: an interpreter with `torch==2.13.0 nncf nvidia-modelopt[onnx] openvino`, for their rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from own_commands import own, peak_mib
from passionsr_trt.engines.bundle.bundles import OnnxBundle, part_names

HERE = Path(__file__).parent
RTX = ("fp32", "fp16", "int8-fp16", "fp8-fp16")
WRITTEN = "as written"  # float, no sub-pixel form: what other tools start from (as_written.py)


def make_model(family: str, steps: int, model: Path, width: float) -> None:
    """A model folder with random weights."""
    if family == "stable-diffusion":
        make = [sys.executable, str(HERE / "sd21_model.py"), "-o", str(model), "--width", str(width)]
        subprocess.run(make, check=True)
        return
    files = model.with_name("files")
    script, *words = {"dit-sr": ["resshift_model.py", "--dit-sr"]}.get(family, [f"{family}_model.py"])
    make = [sys.executable, str(HERE / script), "-o", str(files), "--width", str(width), *words]
    subprocess.run(make, check=True)
    given: list[object] = ["--unet", files / "unet.pth", "--steps", steps]
    if family != "bidiffsr":
        family, given = "resshift", [*given, "--autoencoder", files / "autoencoder.pth"]
    subprocess.run(own("import-model", "--family", family, *given, "-o", model), check=True)
    shutil.rmtree(files)


def prepare(family: str, steps: int, folder: Path, width: float, images: Path, predict: bool) -> None:
    """Model, calibration (ranges of two images), ONNX and engines; what each stage takes."""
    model, spec = folder / "model", folder / "spec.json"
    if not model.is_dir():
        make_model(family, steps, model, width)
    spec.write_text(json.dumps({"method": "range", "activation_observer": "minmax"}))
    cache, onnx, engines = folder / "calib_cache", folder / "onnx", folder / "engines"
    calibrate = own("calibrate", model, "--images", images, "--limit", 2, "--spec", spec, "--cache", cache)
    written = [sys.executable, str(HERE / "as_written.py"), str(model), "-o", str(onnx / WRITTEN)]
    stages: list[tuple[str, Path, list[str]]] = [
        ("calibrate", cache, calibrate),
        ("export INT8", onnx / "int8", own("export", model, "--cache", cache, "-o", onnx / "int8")),
        ("export FP32", onnx / "fp32", own("export", model, "--float", "-o", onnx / "fp32")),
    ]
    if steps == 1:
        stages.append(("export as written", onnx / WRITTEN, written))
    for kind in ("int8", "fp32", *([WRITTEN] if steps == 1 else [])):
        build = own("build-engines", onnx / kind, "-o", engines / kind)
        stages.append((f"build {kind}", engines / kind, build))
    if predict:
        half, int8 = ["--precision", "fp16"], ["--cache", cache]
        stages += [
            ("export FP16", onnx / "fp16", own("export", model, "--float", *half, "-o", onnx / "fp16")),
            *(
                (
                    f"export {kind.upper()} FP16",
                    onnx / f"{kind}-fp16",
                    own("export", model, *half, *int8, "--format", kind, "-o", onnx / f"{kind}-fp16"),
                )
                for kind in ("int8", "fp8")
            ),
        ]
        for kind in RTX:
            words = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9", "-o", engines / f"rtx-{kind}"]
            stages.append(
                (f"build rtx {kind}", engines / f"rtx-{kind}", own("build-engines", onnx / kind, *words))
            )
    for name, result, command in stages:
        if not result.is_dir():
            measured(name, command)
    if predict:
        subprocess.run(own("predict", *(engines / f"rtx-{kind}" for kind in RTX)), check=True)


def measured(name: str, command: list[str]) -> None:
    """Run one stage; say what it took."""
    start = time.monotonic()
    peak = peak_mib(command)
    print(f"{name:<20}{time.monotonic() - start:8.0f} s {peak / 1024:6.1f} GiB at its peak", flush=True)


# in a process of its own: a child's peak memory is never less than its parent's
RECORD = """
import sys
from pathlib import Path
import numpy as np
from passionsr_trt.runtime.apps.benchmark import random_sources
from passionsr_trt.runtime.backends.loading import load_engines
chain = load_engines(Path(sys.argv[1]))
sources = random_sources(chain.parts, (512, 512))
tensors = chain.tensors(sources)
for part in chain.parts:
    np.savez(Path(sys.argv[2]) / f"{part.name}.npz", *(tensors[tensor.name] for tensor in part.inputs))
"""


def quantize_with_peers(folder: Path, python: str) -> list[Path]:
    """Other tools' INT8 files, from the float graphs and what their parts really see; those that came about."""
    tensors = folder / "tensors"
    if not tensors.is_dir():
        tensors.mkdir()
        subprocess.run([sys.executable, "-c", RECORD, folder / "engines" / WRITTEN, tensors], check=True)
    names = part_names(OnnxBundle.load(folder / "onnx" / WRITTEN).parts)
    found = []
    for tool, label in (("nncf", "OpenVINO NNCF INT8"), ("modelopt", "OpenVINO ModelOpt INT8")):
        result = folder / label
        for name in names:
            if (result / f"{name}.done").is_file():
                continue
            copy = folder / "source"  # ModelOpt writes beside its input
            shutil.copytree(folder / "onnx" / WRITTEN, copy)
            result.mkdir(exist_ok=True)
            words = [
                HERE / "peer_defaults.py",
                tool,
                copy / f"{name}.onnx",
                tensors / f"{name}.npz",
                result / name,
            ]
            try:
                measured(f"{tool} {name}", [python, *map(str, words)])
                (result / f"{name}.done").touch()
            except SystemExit as failure:
                print(failure, flush=True)
                break
            finally:
                shutil.rmtree(copy)
        else:
            found.append(result)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="low-resolution pictures to calibrate with")
    families = ("stable-diffusion", "resshift", "dit-sr", "bidiffsr")
    parser.add_argument("--family", choices=families, default=families[0])
    parser.add_argument(
        "--steps", type=int, help="of a family that has several (default: resshift 1, dit-sr 15, bidiffsr 10)"
    )
    parser.add_argument("--predict", action="store_true", help="needs TensorRT-RTX")
    parser.add_argument("--peers-python")
    parser.add_argument("--width", type=float, default=1.0, help="channels times this, 0.2 for a try")
    parser.add_argument("--runs", type=int, default=5, help="rounds of each pair")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.peers_python and arguments.family != "stable-diffusion":
        parser.error("--peers-python: other tools are compared on Stable Diffusion alone")
    steps = arguments.steps or {"dit-sr": 15, "bidiffsr": 10}.get(arguments.family, 1)
    if steps > 1 and arguments.family == "stable-diffusion":
        parser.error(f"--steps {steps}: Stable Diffusion runs in one here")
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    prepare(arguments.family, steps, folder, arguments.width, arguments.images, arguments.predict)
    peers = quantize_with_peers(folder, arguments.peers_python) if arguments.peers_python else []
    for result in (folder / "engines" / "int8", folder / "engines" / "fp32", *peers):
        size = sum(path.stat().st_size for path in result.iterdir())
        print(f"{result.name:<24}{size / 1e9:6.2f} GB on disk", flush=True)
    fp32, written = folder / "engines" / "fp32", folder / "engines" / WRITTEN
    rivals = [f"twin={fp32}", f"bfloat16={fp32}"]
    if steps == 1:
        ours = [f"engines={written}", f"bfloat16={written}", f"onnx={folder / 'onnx' / WRITTEN}", f"twin={fp32}"]
        rivals = [*ours, *(f"files={peer}" for peer in peers)]
    if arguments.family == "stable-diffusion":
        rivals += [f"{kind}={folder / 'model'}" for kind in ("eager", "compiled")]
    engines = ["--engines", folder / "engines" / "int8"]
    words = [
        HERE / "side_by_side.py",
        *engines,
        "--pairs",
        "--runs",
        arguments.runs,
        "-o",
        folder / "side_by_side",
    ]
    commands = [[*words, *(word for text in rivals for word in ("--rival", text))]]
    if steps == 1:
        baseline = ["--baseline", fp32, "--baseline-up-to", 1024]
        commands.append([HERE / "scaling.py", *engines, *baseline, "-o", folder / "scaling"])
    for command in commands:
        subprocess.run([sys.executable, *map(str, command)], check=True)


if __name__ == "__main__":
    main()
