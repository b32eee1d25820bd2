"""One contestant of side_by_side.py, in a process of its own: a run of the whole chain for every line it reads.

    python benchmarks/chain_worker.py KIND FOLDER HEIGHT WIDTH THREADS

KIND: engines, and twin for others of them; bfloat16 (float engines run in it); onnx (a bundle under ONNX Runtime);
eager, compiled (a model folder in PyTorch, as it is or by torch.compile: the model's own modules, without folded
constants); files (PART.onnx or PART.xml of another tool under OpenVINO, in its own defaults).
Prints `ready`, then for every line one JSON object {"seconds": {part: seconds}, "peak_mib": peak resident memory}.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.openvino import OpenVINOEngine, OpenVINOOptions
from passionsr_trt.runtime.benchmark import random_sources
from passionsr_trt.runtime.chain import Chain
from passionsr_trt.runtime.loading import load_engines

Run = Callable[[], dict[str, float]]  # → seconds of each part
Size = tuple[int, int]


def torch_chain(folder: Path, size: Size, threads: int, compiled: bool) -> Run:
    """The model's own modules on tensors, with its formulas between them, as a user writes them."""
    import torch
    from passionsr_trt.export.families.stable_diffusion.chain import reference_parts
    from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    parts = reference_parts(OneStepModel.load(folder))
    if compiled:
        parts = {name: torch.compile(part) for name, part in parts.items()}

    def run() -> dict[str, float]:
        seconds, x = {}, torch.from_numpy(random_image(size))
        for name, part in parts.items():
            start = time.perf_counter()
            x = part(x)
            seconds[name] = time.perf_counter() - start
        check(x.numpy())
        return seconds

    return run


def openvino_chain(folder: Path, size: Size, threads: int) -> Run:
    """Another tool's files in OpenVINO's own defaults: precision of what is not INT8, layout, all."""
    import openvino as ov

    core = ov.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    requests = {}
    for name in ("vae_encoder", "unet", "vae_decoder"):
        path = next(path for path in (folder / f"{name}.xml", folder / f"{name}.onnx") if path.is_file())
        requests[name] = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()

    def run() -> dict[str, float]:
        seconds, x = {}, random_image(size)
        for name, request in requests.items():
            start = time.perf_counter()
            x = request.infer([x])[0].copy()
            seconds[name] = time.perf_counter() - start
        check(x)
        return seconds

    return run


def own_chain(kind: str, folder: Path, size: Size, threads: int) -> Run:
    """Our engines, or an ONNX bundle."""
    chain = load_engines(folder, threads, "cpu" if kind == "onnx" else None)
    if kind == "bfloat16":
        bundle = EngineBundle.load(folder)
        engines = {
            part.name: OpenVINOEngine(partial(bundle.open, part), None, OpenVINOOptions(threads, bfloat16=True))
            for part in bundle.parts
        }
        chain = Chain(bundle.model, bundle.parts, HostExecutor(engines), "OpenVINO BF16")

    sources = random_sources(chain.parts, size)

    def run() -> dict[str, float]:
        done = chain.run(sources)
        check(done.tensors[chain.output])
        return done.seconds

    return run


def check(picture: np.ndarray) -> None:
    assert np.isfinite(picture).all(), "expected a picture, got NaN or infinity"


def random_image(size: Size) -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, *size), dtype=np.float32) * 2 - 1


def load(kind: str, folder: Path, size: Size, threads: int) -> Run:
    if kind in ("eager", "compiled"):
        return torch_chain(folder, size, threads, kind == "compiled")
    return openvino_chain(folder, size, threads) if kind == "files" else own_chain(kind, folder, size, threads)


def main() -> None:
    kind, folder, height, width, threads = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    run = load(kind, folder, (height, width), threads)
    print("ready", flush=True)
    for _line in sys.stdin:
        seconds = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main()
