"""quantize: its steps in a process each, so that what one took in memory is free for the next.

`calibrate`, `export` and `build-engines` find their own results again and keep them. Of the others
OUTPUT/quantize.json says what they were made of: where that is the same, they are left out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.kinds import QUANTIZED
from passionsr_trt.engines.bundle.manifest import MANIFEST, sha256
from passionsr_trt.engines.bundle.records import read_object
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.next_step import PHOTOS, STEP, say_next, typed
from passionsr_trt.engines.common.signals import held_signals
from passionsr_trt.engines.common.writing import check_writable, write_atomic
from passionsr_trt.engines.target_device import target_device
from passionsr_trt.export.quantize_plan import Quantized, QuantizeRequest, Step, results, steps

NOTES = QUANTIZED
INTERRUPTED = 130
SHOWN_SITES = 3  # that run in float, by name; build-engines names all


def quantize_model(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: str = "cpu",
    method: str = "search",
    limit: int = 32,
    drawn: bool = False,
    compute_on: str = "auto",
    name: str | None = None,
) -> Quantized:
    """`passionsr-trt quantize` from Python: calibrate, export, build, compare, measure; the paths of the results.

    model: a model folder, or an image network's own file. images: a folder of low-resolution pictures, of which
    the first `limit` that can be read calibrate. output: a folder; what is in it already and still holds is kept.
    target: as --for takes it (`cpu`, `RTX 4090`, `8.9`). method: as `calibrate` takes it. drawn: compare pictures
    unlike photos too. compute_on: where PyTorch computes, `auto`, `cpu`, `cuda` or `cuda:N`. name: what the model
    is called wherever its engines run, None: as its file or folder is.

    Every step is a process of its own and prints to this one's output. UserError where one fails; its own line
    stands above on stderr.
    """
    request = QuantizeRequest(
        Path(model),
        Path(images),
        Path(output),
        target_device(target),
        method=method,
        limit=limit,
        drawn=drawn,
        compute_on=compute_on,
        name=name,
    )
    status = quantize(request)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise UserError(f"{output}: not finished (status {status})", "the step above says why")
    return results(request)


def quantize(request: QuantizeRequest) -> int:
    """Run what is missing; 0, or the status of the step that failed."""
    started = time.monotonic()
    notes = read_notes(request)
    check_writable(request.output)
    print(
        f"for {request.device.label}: {request.device.format.label} by {request.device.backend.label}", flush=True
    )
    for step in steps(request):
        print(f"\n$ {typed(*step.words)}", flush=True)
        key = key_of(step)
        if step.made and notes["steps"].get(step.words[0]) == key and all(path.is_file() for path in step.made):
            print(f"{step.made[-1]}: nothing that it is made of has changed; kept")
            continue
        if status := run(step):
            if status == INTERRUPTED:
                print("the same command goes on from here", file=sys.stderr)
            return status
        if step.made:
            notes["steps"][step.words[0]] = key
            write_atomic(request.output / NOTES, f"{json.dumps(notes, indent=1)}\n".encode())
    summarize(request, time.monotonic() - started)
    return 0


def read_notes(request: QuantizeRequest) -> dict[str, Any]:
    """Of what is in the output already. UserError where that is of another model or for another device."""
    path, device, model = request.output / NOTES, request.device, str(request.model.resolve())
    target = f"{device.backend} {device.format} {device.capability}".strip()
    try:
        notes = read_object(path, "the notes of `quantize`")
    except FileNotFoundError:
        notes = {}
    if notes.get("target", target) != target:
        raise UserError(
            f"{request.output}: made for {notes.get('for')}", f"expected another folder for {device.label}"
        )
    if notes.get("model", model) != model:
        fix = f"where it is the same one in another place: remove {path}"
        raise UserError(f"{request.output}: made of {notes['model']}", f"expected another folder for {model}", fix)
    done = notes.get("steps")
    kept = done if isinstance(done, dict) else {}
    return {"model": model, "for": device.label, "target": target, "steps": kept}


def key_of(step: Step) -> str:
    """Of the command and the content of all that it reads: equal keys, equal results."""
    if not step.made:
        return ""
    parts = [importlib.metadata.version("passionsr-trt"), *step.words]
    if not step.anywhere:
        parts += [platform.node(), str(os.cpu_count())]
    for path in step.of:
        manifest = path / MANIFEST
        files = [manifest] if manifest.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        parts += [f"{file} {sha256(file)}" for file in files or [path]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run(step: Step) -> int:
    """The status of a step's process. UserError where a signal killed it."""
    command = [sys.executable, "-m", "passionsr_trt.runtime", *step.words]
    # modules are looked for where the console command looks, not in the working folder
    with held_signals() as release:
        process = subprocess.Popen(command, env={**os.environ, STEP: "1", "PYTHONSAFEPATH": "1"})
        try:
            release()
            status = process.wait()
        except KeyboardInterrupt as stop:
            if stop.args:  # SIGTERM, which has reached this process alone; Ctrl-C has reached both
                process.terminate()
            return process.wait() or INTERRUPTED
    if status < 0:
        killed = f"{shlex.join(step.words[:2])}: killed by signal {-status}"
        raise UserError(killed, "expected it to end by itself", "where memory was short, free some and go on")
    return status


def summarize(request: QuantizeRequest, seconds: float) -> None:
    """What was found, where it is, and what comes next."""
    made, device = results(request), request.device
    print(f"\n{made.output}: done in {seconds / 60:.1f} minutes")
    to_float = _read(made.output / "compare" / "comparison.json")["mean"]["to_float"]
    psnr, worst = to_float["psnr"], to_float["psnr_worst"]
    print(f"  closeness  {psnr:.1f} dB to the float model (worst {worst:.1f}), {made.report}")
    if made.speed is not None:
        faster = _read(made.output / "benchmark" / "benchmark.json")["speedup_over_fastest_parts"]["chain"]
        print(f"  speed      {faster:.2f}× the fastest float's, {made.speed}")
    if made.predicted is not None:
        for gpu, rows in _read(made.predicted)["predicted seconds"].items():
            times = {label: row["chain"] for label, row in rows.items()}
            shown = ", ".join(f"{label} {time * 1e3:.1f} ms" for label, time in times.items())
            print(f"  predicted  {gpu}: {shown}, {made.predicted}")
            fastest = min(times, key=lambda label: times[label])
            if fastest != device.format.label:
                print(
                    f"             {fastest} is the faster one: the model gains nothing by {device.format.label}"
                )
    if made.engines is None:
        print("  predicted  no: that takes engines; docs/gpu.md#predict has times of known models")
        print(f"  engines    {device.backend.label} builds them on {device.label} alone; there:")
        say_next("build-engines", made.onnx, "-o", made.output / "engines", "--backend", device.backend)
        return
    print(f"  engines    {made.engines}, {coverage_of(EngineBundle.load(made.engines))}")
    if not device.here:
        print(f"  they run on {device.label}; there:")
    say_next("infer", PHOTOS, "-o", Path("out", "pictures"), "--engines", made.engines)


def coverage_of(engines: EngineBundle) -> str:
    """`INT8 at 30 of 32 sites (97.1% of MACs), in float: network.a, network.b`, of the sites that the calibration
    quantizes. UserError where all of them run in float.
    """
    figures = engines.coverage.values()
    sites, running = (
        sum(getattr(part, name) for part in figures) for name in ("sites_quantized", "sites_running")
    )
    if not running:
        raise UserError(
            f"{engines.folder}: no site runs {engines.label}, of {sites} that the calibration quantizes",
            "expected some",
            "another spec quantizes more",
        )
    macs = {part.name: sum(site.macs for site in part.sites) for part in engines.parts}
    share = sum(engines.coverage[name].macs_share * count for name, count in macs.items()) / (
        sum(macs.values()) or 1
    )
    names = [name for part in figures for name in part.float_sites]
    more = f" and {len(names) - SHOWN_SITES} more" if len(names) > SHOWN_SITES else ""
    fallen = f", in float: {', '.join(names[:SHOWN_SITES])}{more}" if names else ""
    return f"{engines.label} at {running} of {sites} sites ({share:.1%} of MACs){fallen}"


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "a result of `quantize`")
