"""Trained image networks from their own files to engines: how close bundles and engines stay to the float network.

    python benchmarks/trained.py -o out/trained                         # what trained_networks.py can fetch
    python benchmarks/trained.py -o out/trained --networks FOLDER --only spanx4_ch48 --method learned

PSNR over RGB to the float network's 8-bit output, mean and worst, of the ONNX bundle under the exact reference
executor and of OpenVINO's engines, `--float32` and as they are by themselves; on photos and on drawn pictures
(engines/pictures/drawn_set.py). Ends with 1 where the mean of the float32 engine is more than 0.5 dB below its
bundle's, or that of the other one more than 1 dB, or where one could not be built. What is there already is used
again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from own_commands import command
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE
from passionsr_trt.engines.openvino.compile import openvino_int8_exact
from passionsr_trt.engines.pictures.drawn_set import drawn_set
from passionsr_trt.engines.pictures.files import list_images
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.runtime.backends.loading import load_engines, open_onnx
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.metrics import psnr
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image
from trained_networks import NETWORKS, Unavailable, further_networks, ncnn_files

ALLOWED = {"float32": 0.5, "default": 1.0}  # dB that an engine's mean may be below its bundle's
CROP = 96  # pixels of a calibration picture's sides


def pictures_of(folder: Path, count: int, side: int) -> dict[str, dict[str, Image.Image]]:
    """The middles of so many photos, and as large drawn pictures."""
    photos = {path.stem: middle(read_picture(path).rgb, side) for path in list_images([folder])[:count]}
    return {"photos": photos, "drawn": drawn_set(side)}


def middle(image: Image.Image, side: int) -> Image.Image:
    left, top = max(image.width - side, 0) // 2, max(image.height - side, 0) // 2
    return image.crop((left, top, min(left + side, image.width), min(top + side, image.height)))


def network_files(folder: Path | None, only: list[str], out: Path) -> dict[str, Path]:
    """By name: those that can be fetched, as safetensors files in `out`, and those in the folder."""
    own = further_networks() + (
        sorted(folder.glob("*.pth")) + sorted(folder.glob("*.safetensors")) if folder else []
    )
    found = {path.stem: path for path in own if not only or path.stem in only}
    for name in NETWORKS:
        file = out / f"{name}.safetensors"
        if only and name not in only:
            continue
        try:
            if not file.exists():
                command("import-model", *ncnn_files(name), "-o", file)
            found[name] = file
        except Unavailable as error:
            print(f"{name}: left out, {error}", flush=True)
    return found


def results(chain: Chain, pictures: dict[str, Image.Image]) -> list[Image.Image]:
    return [super_resolve(chain, picture, Options()).image for picture in pictures.values()]


def chains(network: Path, work: Path, arguments: argparse.Namespace, calib: Path) -> dict[str, Chain]:
    """The float bundle, the INT8 bundle and both engines, made where they are not there."""
    spec = work / "spec.json"
    work.mkdir(parents=True, exist_ok=True)
    limit = (
        FULL_RANGE if openvino_int8_exact(FULL_RANGE) else HALF_RANGE
    ).high  # so that engines are the bundle's codes
    spec.write_text(json.dumps({"method": arguments.method, "weight_code_limit": limit}))
    cache = ("--cache", work / "cache")
    command("calibrate", network, "--images", calib, "--limit", arguments.limit, "--spec", spec, *cache)
    command("export", network, "--float", "-o", work / "float")
    command("export", network, *cache, "-o", work / "int8")
    opened = {
        "float": open_onnx(OnnxBundle.load(work / "float")),
        "bundle": open_onnx(OnnxBundle.load(work / "int8")),
    }
    for name, words in (("float32", ["--float32"]), ("default", [])):
        try:
            command("build-engines", work / "int8", *words, "-o", work / f"engines_{name}")
            opened[name] = load_engines(work / f"engines_{name}")
        except subprocess.CalledProcessError:
            print(f"{network.stem}: no {name} engine", flush=True)
    return opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--networks", type=Path, help="folder of further .pth and .safetensors files")
    parser.add_argument("--only", action="append", default=[], help="a network's name; may be given several times")
    parser.add_argument("--method", choices=("range", "search", "learned"), default="range")
    parser.add_argument("--images", type=Path, default=Path("demo/calib/lr"), help="to calibrate with")
    parser.add_argument("--limit", type=int, default=4, help="of them")
    parser.add_argument("--photos", type=Path, default=Path("demo/photos/lr"), help="to compare on")
    parser.add_argument("--count", type=int, default=4, help="of them")
    parser.add_argument("--side", type=int, default=48, help="low-resolution pixels of a picture's sides")
    arguments = parser.parse_args()
    out: Path = arguments.output
    calib = out / "calib"
    calib.mkdir(parents=True, exist_ok=True)
    for path in list_images([arguments.images])[: arguments.limit]:
        middle(read_picture(path).rgb, CROP).save(calib / f"{path.stem}.png")
    kinds = pictures_of(arguments.photos, arguments.count, arguments.side)
    rows: list[dict[str, object]] = []
    failed: list[str] = []
    for name, file in network_files(arguments.networks, arguments.only, out).items():
        opened = chains(file, out / f"{name}-{arguments.method}", arguments, calib)
        for kind, pictures in kinds.items():
            wanted = results(opened.pop("float") if kind == "drawn" else opened["float"], pictures)
            near = {}
            for row in (row for row in ("bundle", *ALLOWED) if row in opened):
                found = [psnr(a, b) for a, b in zip(wanted, results(opened[row], pictures), strict=True)]
                near[row] = (float(np.mean(found)), min(found))
            rows.append({"network": name, "method": arguments.method, "pictures": kind, **near})
            shown = "  ".join(f"{row} {mean:5.2f} (worst {worst:5.2f})" for row, (mean, worst) in near.items())
            print(f"{name:<24} {kind:<7} {shown}", flush=True)
            for row, allowed in ALLOWED.items():
                mean = near[row][0] if row in near else -np.inf  # it was not built
                if not near["bundle"][0] - mean <= allowed:
                    failed.append(f"{name}, {kind}: {row} {mean:.2f} dB, its bundle {near['bundle'][0]:.2f}")
        (out / "trained.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(*failed, sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
