"""How close an image network stays to its float twin and to the originals, spec by spec.

    python benchmarks/networks.py NETWORK --set Set5/lr_x4 Set5/hr --calib demo/calib/lr -o out/networks \
        --spec '{"method": "learned"}' --spec '{"method": "range"}'

PSNR-Y and SSIM-Y to the originals as the field counts them (BT.601 luma, a border of `scale` pixels left out),
PSNR to the float network over RGB, by the exact reference executor (ONNX Runtime with Q/DQ as written).
Calibrations and graphs that are there are used again.
--peers-python: an interpreter with `torch==2.13.0 nncf nvidia-modelopt[onnx]`, for the other tools' 8 bits on the
sites of the first spec, by peer_worker.py's rules. Sizes are those of the graphs with their weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from own_commands import command
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.pictures.files import list_images
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.loading import open_onnx
from passionsr_trt.runtime.backends.onnxruntime import OnnxEngine
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.metrics import psnr
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image
from quality import Workspace, quantize
from quality_methods import Method
from skimage.metrics import structural_similarity

PEERS = ("ort-minmax", "ort-percentile", "ort-entropy", "modelopt-max", "modelopt-entropy", "nncf")
LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601, studio range, as MATLAB's rgb2ycbcr


def luma(image: Image.Image, border: int) -> np.ndarray:
    """[H − 2·border, W − 2·border] in 16 to 235."""
    y = np.asarray(image.convert("RGB"), np.float64) @ LUMA + 16
    return y[border:-border, border:-border] if border else y


def to_original(result: Image.Image, original: Image.Image, scale: int) -> tuple[float, float]:
    """PSNR in dB and SSIM of the luma; an original that is no multiple of the scale is cut."""
    original = original.crop((0, 0, result.width, result.height))
    a, b = luma(result, scale), luma(original, scale)
    similar = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    return float(10 * np.log10(255.0**2 / np.mean((a - b) ** 2))), float(similar)


def quantize_peer(name: str, work: Workspace) -> Path:
    """The network as another tool quantizes it, in a folder of its own."""
    folder = work.root / name
    if not (folder / "network.onnx").is_file():
        folder.mkdir(exist_ok=True)
        quantize(Method(name, "tool", peer=name), "W8A8", 0, work, folder)
    return folder


def open_row(folder: Path, like: OnnxBundle) -> Chain:
    """A bundle, or another tool's network in place of `like`'s."""
    if (folder / "manifest.json").is_file():
        return open_onnx(OnnxBundle.load(folder))
    executor = HostExecutor({"network": OnnxEngine(folder / "network.onnx")})
    return Chain(like.model, like.parts, executor, folder.name)


def pictures(chain: Chain, files: list[Path]) -> list[Image.Image]:
    return [super_resolve(chain, read_picture(file).rgb, Options(tile=0)).image for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--set", type=Path, nargs=2, action="append", required=True, metavar=("LR", "HR"))
    parser.add_argument("--calib", type=Path, required=True, help="low-resolution pictures")
    parser.add_argument("--limit", type=int, default=32, help="of calibration pictures")
    parser.add_argument(
        "--spec", action="append", default=[], help="QuantSpec as JSON; may be given several times"
    )
    parser.add_argument("--peers-python")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.output
    command("export", arguments.network, "--float", "-o", out / "float")
    rows = {"float": out / "float"}
    for text in arguments.spec:
        folder = out / hashlib.sha256(f"{text} {arguments.limit}".encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.json").write_text(text)
        images = ("--images", arguments.calib, "--limit", arguments.limit)
        cache = ("--cache", folder / "cache")
        command("calibrate", arguments.network, *images, "--spec", folder / "spec.json", *cache)
        command("export", arguments.network, *cache, "-o", folder / "onnx")
        rows[text] = folder / "onnx"
    like = OnnxBundle.load(rows["float"])
    if arguments.peers_python:
        shared = {**vars(arguments), "model": arguments.network, "calibration": arguments.calib}
        shared["output"] = out / "peers"
        spec = QuantSpec.from_json(json.loads(arguments.spec[0]) if arguments.spec else {})
        work = Workspace(argparse.Namespace(**shared), spec)
        rows |= {name: quantize_peer(name, work) for name in PEERS}
    scale = like.model.upscale
    table: list[dict[str, Any]] = []
    for low, high in arguments.set:
        files = list_images([low])
        originals = [Image.open(high / file.name) for file in files]
        floats = pictures(open_row(rows["float"], like), files)
        for name, folder in rows.items():
            found = floats if name == "float" else pictures(open_row(folder, like), files)
            pairs = zip(found, originals, strict=True)
            quality = np.mean([to_original(result, original, scale) for result, original in pairs], axis=0)
            near = [psnr(a, b) for a, b in zip(floats, found, strict=True)]
            row: dict[str, Any] = {
                "set": str(low),
                "spec": name,
                "psnr_y": float(quality[0]),
                "ssim_y": float(quality[1]),
            }
            row |= {"to_float": float(np.mean(near)), "worst": float(min(near))}
            row["bytes"] = (folder / "network.onnx").stat().st_size
            table.append(row)
            close = f"{np.mean(near):5.2f} (worst {min(near):5.2f})"
            shown = f"PSNR-Y {quality[0]:6.2f}  SSIM {quality[1]:.4f}  to float {close}"
            print(f"{low.parent.name:<10} {shown}  {row['bytes'] / 1e6:5.1f} MB  {name}", flush=True)
    (out / "networks.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
