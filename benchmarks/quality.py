"""Which quantizer stays closest to the float model? Ours, our baselines and ablations, and the other tools.

    python benchmarks/quality.py --model demo/model --calibration demo/calib/lr \
        --test demo=demo/photos/lr:demo/photos/hr --peers-python PEERS/bin/python -o out/quality

Everything but the quantizer is the same: the float model, the calibration crops, the excluded sites, the
constraints (symmetric codes, activations per tensor, weights per output channel), the engine (OpenVINO INT8) and
the test images. Metrics on 8-bit RGB, colour fix off, to the float output and to the originals.

Each row is kept in OUTPUT/rows as soon as it is known; a second run does what is missing.
--peers-python: an interpreter with `torch==2.13.0 nncf nvidia-modelopt[onnx]`; without it their rows are left out.
--metrics: folder with the VGG16 and DISTS weights (benchmarks/dists.py); without it that column is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from own_commands import command
from passionsr_trt.engines.bundle.bundles import OnnxBundle, part_names
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.pictures.pictures import chain_sources, read_picture, to_array, upscale
from passionsr_trt.engines.pictures.synthetic import synthetic_pictures
from passionsr_trt.runtime.apps.benchmark import conditions, measure, random_sources
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.loading import open_onnx
from passionsr_trt.runtime.backends.openvino import OpenVINOEngine, OpenVINOOptions
from passionsr_trt.runtime.core.chain import Chain
from quality_images import TestSet
from quality_methods import WIDTHS, Method, methods
from quality_report import write_report
from tqdm import tqdm

CROP = 64  # low-resolution pixels: 256 of the chain's input at ×4
THREADS = 2


class Workspace:
    """Folders of one run, and the calibration crops and tensors that all methods share."""

    def __init__(self, arguments: argparse.Namespace, spec: QuantSpec) -> None:
        """spec: what is quantized of it counts for every tool."""
        self.arguments, self.spec = arguments, spec
        self.root: Path = arguments.output
        self.rows = self.root / "rows"
        self.rows.mkdir(parents=True, exist_ok=True)
        self.float_bundle = self.root / "float"
        if not (self.float_bundle / "manifest.json").is_file():
            command("export", arguments.model, "--float", "-o", self.float_bundle)

    def crops(self, seed: int, drawn: bool = False) -> Path:
        """One seeded crop of every calibration image, as a folder of PNGs, and what our spec draws beside."""
        folder = self.root / f"crops{seed}{'-drawn' * drawn}"
        if not folder.is_dir():
            folder.mkdir()
            if drawn:
                own = [
                    read_picture(Path(shutil.copy(path, folder))).rgb
                    for path in sorted(self.crops(seed).iterdir())
                ]
                count = round(len(own) * self.spec.synthetic / (1 - self.spec.synthetic))
                for index, picture in enumerate(synthetic_pictures(count, CROP, seed, own)):
                    picture.save(folder / f"drawn{index:02}.png")
                return folder
            random = np.random.default_rng(seed)
            files = sorted(self.arguments.calibration.iterdir())[: self.arguments.limit]
            for path in files:
                image = read_picture(path).rgb
                left, top = (int(random.integers(0, max(1, side - CROP + 1))) for side in image.size)
                image.crop((left, top, left + CROP, top + CROP)).save(folder / f"{path.stem}.png")
        return folder

    def tensors(self, seed: int, drawn: bool) -> Path:
        """What each part is fed by the float chain on the crops: PART.npz."""
        folder = self.root / f"tensors{seed}{'-drawn' * drawn}"
        if not folder.is_dir():
            bundle = OnnxBundle.load(self.float_bundle)
            chain = open_onnx(bundle, THREADS)
            stages = []
            for path in sorted(self.crops(seed, drawn).iterdir()):
                rgb = read_picture(path).rgb
                enlarged = to_array(upscale(rgb, chain.model.upscale))
                sources = chain_sources(rgb, enlarged, chain.parts, seed=None)
                stages.append(chain.tensors(sources))
            folder.mkdir()
            for part in bundle.parts:
                arrays = {str(index): stage[part.inputs[0].name] for index, stage in enumerate(stages)}
                np.savez(folder / f"{part.name}.npz", allow_pickle=False, **arrays)
        return folder

    def sites(self) -> dict[str, list[str]]:
        """The sites that the spec quantizes: the only ones any tool may touch."""
        from passionsr_trt.export.families.registry import load_model
        from passionsr_trt.export.quantize.chosen import quantized_sites

        return {
            part.name: [named.name for named in quantized_sites(part, self.spec)]
            for part in load_model(self.arguments.model).parts
        }


def quantize(method: Method, width: str, seed: int, work: Workspace, folder: Path) -> dict[str, Path]:
    """Quantize the model by a method; returns the ONNX file of each part."""
    if not method.peer:
        spec = {**method.spec, **WIDTHS[width], "seed": seed}
        path = folder / "spec.json"
        path.write_text(json.dumps(spec))
        cache = folder / "calibration"
        model = work.arguments.model
        command("calibrate", model, "--images", work.crops(seed), "--spec", path, "--cache", cache)
        command("export", model, "--cache", cache, "-o", folder / "onnx")
        bundle = OnnxBundle.load(folder / "onnx")
        return {part.name: bundle.open(part) for part in bundle.parts}
    worker = Path(__file__).with_name("peer_worker.py")
    result = {}
    bundle = OnnxBundle.load(work.float_bundle)
    quantized = work.sites()
    for part in bundle.parts:
        sites = folder / f"{part.name}.json"
        sites.write_text(json.dumps(quantized[part.name]))
        result[part.name] = folder / f"{part.name}.onnx"
        tensors = work.tensors(seed, method.drawn) / f"{part.name}.npz"
        source = folder / f"{part.name}.float.onnx"
        shutil.copy(bundle.open(part), source)  # ModelOpt writes into its input
        words = [method.peer, source, tensors, sites, result[part.name]]
        with (folder / f"{part.name}.log").open("w") as log:
            subprocess.run(
                [work.arguments.peers_python, str(worker), *map(str, words)],
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    return result


def chain_of(files: dict[str, Path], work: Workspace, label: str) -> Chain:
    bundle = OnnxBundle.load(work.float_bundle)
    engines = {
        name: OpenVINOEngine(partial(Path, path), None, OpenVINOOptions(THREADS)) for name, path in files.items()
    }
    return Chain(bundle.model, bundle.parts, HostExecutor(engines), label)


def run_row(method: Method, width: str, seed: int, work: Workspace, tests: TestSet) -> None:
    """Quantize, build, measure, keep."""
    name = f"{method.name}_{width}_{seed}".replace(" ", "-").replace(",", "")
    target = work.rows / f"{name}.json"
    if target.is_file():
        return
    folder = work.root / "work" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    files = quantize(method, width, seed, work, folder)
    seconds = time.perf_counter() - started
    chain = chain_of(files, work, method.name)
    row: dict[str, Any] = {
        "name": method.name,
        "group": method.group,
        "width": width,
        "seed": seed,
        "seconds_to_quantize": seconds,
        "bytes": sum(path.stat().st_size for path in files.values()),
        "hashes": {part: sha256(path) for part, path in files.items()},
        "images": tests.measure(chain),
        "drawn": tests.measure_drawn(chain),
    }
    if not seed and width == "W8A8":
        row["latency"] = latency(chain, chain_of(float_files(work), work, "float"))
    target.with_suffix(".tmp").write_text(json.dumps(row, indent=1))
    target.with_suffix(".tmp").replace(target)


def float_files(work: Workspace) -> dict[str, Path]:
    bundle = OnnxBundle.load(work.float_bundle)
    return {part.name: bundle.open(part) for part in bundle.parts}


def latency(chain: Chain, reference: Chain) -> dict[str, float]:
    """Median seconds at 512×512, and the speed-up over the float chain, in alternating rounds."""
    sources = random_sources(chain.parts, (512, 512))
    times = measure([chain, reference], part_names(chain.parts), sources, 5)
    own, other = (float(np.median(times[item.label]["chain"])) for item in (chain, reference))
    return {"seconds": own, "speedup": other / own}


def parse_test(text: str) -> tuple[str, Path, Path]:
    name, _, folders = text.partition("=")
    low, _, high = folders.partition(":")
    if not (name and low and high):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=LOW_RES_FOLDER:ORIGINALS_FOLDER")
    return name, Path(low), Path(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="low-resolution images")
    parser.add_argument("--limit", type=int, default=32, help="calibration images")
    parser.add_argument("--test", type=parse_test, action="append", required=True, metavar="NAME=LR:HR")
    parser.add_argument(
        "--spec", type=Path, help="our spec; without one the learned default. Ablations take from it"
    )
    parser.add_argument("--peers-python")
    parser.add_argument("--metrics", type=Path)
    parser.add_argument("--widths", choices=list(WIDTHS), nargs="+", default=list(WIDTHS))
    parser.add_argument("--seeds", type=int, default=3, help="of our method; the others run once")
    parser.add_argument("--only", nargs="+", help="names of methods")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    work = Workspace(arguments, QuantSpec())
    tests = TestSet(arguments.test, chain_of(float_files(work), work, "float"), arguments.metrics)
    chosen = methods(json.loads(arguments.spec.read_text()) if arguments.spec else {"method": "learned"})
    # every method once before the second seed of any
    for seed, width, method in itertools.product(range(arguments.seeds), arguments.widths, chosen):
        skipped = width not in method.widths or (method.peer and not arguments.peers_python)
        if skipped or (arguments.only and method.name not in arguments.only) or (seed and not method.seeded):
            continue
        tqdm.write(f"{method.name}, {width}, seed {seed}")
        run_row(method, width, seed, work, tests)
    write_report(arguments.output, conditions((512, 512), THREADS, 5))


if __name__ == "__main__":
    main()
