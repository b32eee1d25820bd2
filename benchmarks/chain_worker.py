"""One contestant of side_by_side.py, in a process of its own: a run of the whole chain for every line it reads:
a path of an .npz file with its sources.

    python benchmarks/chain_worker.py KIND FOLDER THREADS

KIND: engines, twin and before for others of them; bfloat16 (float engines run in it); onnx (a bundle under
ONNX Runtime); eager, compiled (a model folder in PyTorch, as it is or by torch.compile: the model's own modules,
without folded constants); files (PART.onnx or PART.xml of another tool under OpenVINO, in its own defaults);
ncnn (to_ncnn.py).
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
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.backends.openvino import OpenVINOEngine, OpenVINOOptions
from passionsr_trt.runtime.core.chain import Chain

Sources = dict[str, Any]
Run = Callable[[Sources], dict[str, float]]  # sources → seconds of each part


def torch_chain(folder: Path, threads: int, compiled: bool) -> Run:
    """The model's own modules on tensors, with its formulas between them, as a user writes them."""
    import torch
    from passionsr_trt.export.families.stable_diffusion.chain import reference_parts
    from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    parts = reference_parts(OneStepModel.load(folder))
    if compiled:
        parts = {name: torch.compile(part) for name, part in parts.items()}

    def run(sources: Sources) -> dict[str, float]:
        seconds, x = {}, torch.from_numpy(sources["image"])
        for name, part in parts.items():
            start = time.perf_counter()
            x = part(x)
            seconds[name] = time.perf_counter() - start
        check(x.numpy())
        return seconds

    return run


def openvino_chain(folder: Path, threads: int) -> Run:
    """Another tool's files in OpenVINO's own defaults: precision of what is not INT8, layout, all."""
    import openvino as ov

    core = ov.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    requests = {}
    for name in ("vae_encoder", "unet", "vae_decoder", "network"):
        for path in (folder / f"{name}.xml", folder / f"{name}.onnx"):
            if path.is_file():
                compiled = core.compile_model(core.read_model(path), "CPU", options)
                requests[name] = compiled.create_infer_request()
                break

    def run(sources: Sources) -> dict[str, float]:
        seconds, x = {}, next(iter(sources.values()))
        for name, request in requests.items():
            start = time.perf_counter()
            x = request.infer([x])[0].copy()
            seconds[name] = time.perf_counter() - start
        check(x)
        return seconds

    return run


def ncnn_network(folder: Path, threads: int) -> Run:
    """ncnn in float32 with its Winograd convolutions, its own defaults but for the threads."""
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = threads
    network.load_param(str(folder / "network.ncnn.param"))
    network.load_model(str(folder / "network.ncnn.bin"))

    def run(sources: Sources) -> dict[str, float]:
        lr = ncnn.Mat(np.ascontiguousarray(sources["lr"][0] * 0.5 + 0.5)).clone()
        start = time.perf_counter()
        with network.create_extractor() as extractor:
            extractor.input("in0", lr)
            _code, picture = extractor.extract("out0")
            seconds = time.perf_counter() - start
            check(np.array(picture))
        return {"network": seconds}

    return run


def own_chain(kind: str, folder: Path, threads: int) -> Run:
    """Our engines, or an ONNX bundle."""
    chain = load_engines(folder, threads, "cpu" if kind == "onnx" else None)
    if kind == "bfloat16":
        bundle = EngineBundle.load(folder)
        engines = {
            part.name: OpenVINOEngine(partial(bundle.open, part), None, OpenVINOOptions(threads, bfloat16=True))
            for part in bundle.parts
        }
        chain = Chain(bundle.model, bundle.parts, HostExecutor(engines), "OpenVINO BF16")

    def run(sources: Sources) -> dict[str, float]:
        done = chain.run(sources)
        check(done.tensors[chain.output])
        return done.seconds

    return run


def check(picture: np.ndarray) -> None:
    assert np.isfinite(picture).all(), "expected a picture, got NaN or infinity"


def load(kind: str, folder: Path, threads: int) -> Run:
    if kind in ("eager", "compiled"):
        return torch_chain(folder, threads, kind == "compiled")
    foreign = {"files": openvino_chain, "ncnn": ncnn_network}.get(kind)
    return foreign(folder, threads) if foreign else own_chain(kind, folder, threads)


def main() -> None:
    kind, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    run = load(kind, folder, threads)
    print("ready", flush=True)
    for line in sys.stdin:
        with np.load(line.strip()) as stored:
            sources = dict(stored)
        seconds = run(sources)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main()
