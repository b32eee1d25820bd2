"""One contestant of side_by_side.py, in a process of its own: a run of the whole chain for every line it reads.

    python benchmarks/chain_worker.py KIND FOLDER HEIGHT WIDTH THREADS

KIND: engines; bfloat16 (float engines run in it); onnx (a bundle under ONNX Runtime); eager, compiled (a model
folder in PyTorch, as it is or by torch.compile: the model's own modules, without folded constants); files
(PART.onnx or PART.xml of another tool under OpenVINO, in its own defaults).
Prints `ready`, then for every line one JSON object {"seconds": {part: seconds}, "peak_mib": peak resident memory}.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.bundles import PART_NAMES, EngineBundle
from passionsr_trt.runtime.benchmark import random_image
from passionsr_trt.runtime.chain import Chain
from passionsr_trt.runtime.loading import load_engines

Part = Callable[[Any], Any]


def torch_parts(folder: Path, threads: int, compiled: bool) -> dict[str, Part]:
    """The parts on tensors; UNet with its x0 formula, VAE with its scaling, as a user writes them."""
    import torch
    from passionsr_trt.export.families.stable_diffusion.fold import build_parts
    from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    model = OneStepModel.load(folder)
    parts, step = build_parts(model), model.one_step
    root, sigma = model.alpha_bar**0.5, (1 - model.alpha_bar) ** 0.5

    def encode(x: torch.Tensor) -> torch.Tensor:
        if model.vae_kind == "AutoencoderKL":
            return model.vae.encode(x).latent_dist.mode() * step.scaling_factor
        return parts.vae_encoder(x)

    def denoise(z: torch.Tensor) -> torch.Tensor:
        predicted = model.unet(z, step.timestep, encoder_hidden_states=model.text).sample
        return (z - sigma * predicted) / root if step.prediction == "epsilon" else root * z - sigma * predicted

    def decode(z: torch.Tensor) -> torch.Tensor:
        if model.vae_kind == "AutoencoderKL":
            return model.vae.decode(z / step.scaling_factor).sample
        return parts.vae_decoder(z)

    chosen = dict(zip(PART_NAMES, (encode, denoise, decode), strict=True))
    return {name: torch.compile(part) for name, part in chosen.items()} if compiled else chosen


def openvino_parts(folder: Path, threads: int) -> dict[str, Part]:
    """Another tool's files in OpenVINO's own defaults: precision of what is not INT8, layout, all."""
    import openvino as ov

    core = ov.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}

    def part(name: str) -> Part:
        path = next(path for path in (folder / f"{name}.xml", folder / f"{name}.onnx") if path.is_file())
        request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
        return lambda x: request.infer([x])[0].copy()

    return {name: part(name) for name in PART_NAMES}


def engine_parts(kind: str, folder: Path, threads: int) -> dict[str, Part]:
    """Our engines, or an ONNX bundle."""
    chain = load_engines(folder, threads, "cpu" if kind == "onnx" else None)
    if kind == "bfloat16":
        from passionsr_trt.runtime.backends.openvino import OpenVINOEngine, OpenVINOOptions

        bundle = EngineBundle.load(folder)
        engines = {
            part.name: OpenVINOEngine(bundle.open(part), None, OpenVINOOptions(threads, bfloat16=True))
            for part in bundle.parts
        }
        chain = Chain(bundle.model, engines, "OpenVINO BF16")
    return {name: chain.engines[name].run for name in PART_NAMES}


def load(kind: str, folder: Path, threads: int) -> dict[str, Part]:
    if kind in ("eager", "compiled"):
        return torch_parts(folder, threads, kind == "compiled")
    return openvino_parts(folder, threads) if kind == "files" else engine_parts(kind, folder, threads)


def main() -> None:
    kind, folder, height, width, threads = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    parts = load(kind, folder, threads)
    image: Any = random_image((height, width))
    if kind in ("eager", "compiled"):
        import torch

        image = torch.from_numpy(image)
    print("ready", flush=True)
    for _line in sys.stdin:
        seconds, x = {}, image
        for name, run in parts.items():
            start = time.perf_counter()
            x = run(x)
            seconds[name] = time.perf_counter() - start
        assert np.isfinite(np.asarray(x)).all(), "expected a picture, got NaN or infinity"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main()
