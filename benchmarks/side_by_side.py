"""INT8 engines against OpenVINO, ONNX Runtime, PyTorch and other tools' INT8, in turn.

    python benchmarks/side_by_side.py --engines demo/out/engines --rival eager=demo/model \
        --rival engines=demo/out/float --rival onnx=demo/out/onnx/float -o demo/out/side_by_side

--rival KIND=FOLDER, kinds as in chain_worker.py; or vs-mlrt-ov=PYTHON:SINGLE_FILE.onnx (vapoursynth_worker.py).
Every contestant is a process of its own that waits between its turns. With --pairs each rival meets the INT8
engines alone: memory for two instead of all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle, part_names
from passionsr_trt.engines.common.arguments import parse_size, whole
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.runtime.apps.benchmark import (
    Times,
    conditions,
    draw_chart,
    measure,
    print_report,
    random_sources,
    summarize,
)
from passionsr_trt.runtime.core.chain import Arrays, Done

LABELS = {
    "engines": "OpenVINO FP32",
    "bfloat16": "OpenVINO BF16",
    "onnx": "ONNX Runtime FP32",
    "eager": "PyTorch eager FP32",
    "compiled": "torch.compile FP32",
    "twin": "OpenVINO FP32 sub-pixel",
    "before": "OpenVINO INT8 as written",
    "ncnn": "ncnn FP32",
    "vs-mlrt-ov": "vs-mlrt-ov, its defaults",
}
TESTED = "OpenVINO INT8"
VAPOURSYNTH = "vs-mlrt-ov"


class WorkerEnded(Exception):
    """A contestant's process is no more, of memory perhaps; what it said stands above."""


class Worker:
    """Stands in for a Chain: `run` asks the process for one run, of the sources in a file, and for its times."""

    def __init__(self, label: str, kind: str, place: str, sources: Path, threads: int) -> None:
        self.label, self.sources = label, sources
        self.peak_mib = 0.0
        here = Path(__file__)
        words = [sys.executable, str(here.with_name("chain_worker.py")), kind, place, str(threads)]
        if kind == VAPOURSYNTH:
            python, _, model = place.partition(":")
            words = [python, str(here.with_name("vapoursynth_worker.py")), model, str(threads)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        self.process.wait()

    def run(self, _sources: Arrays) -> Done:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.sources}\n")
        self.process.stdin.flush()
        found = json.loads(self._answer())
        self.peak_mib = found["peak_mib"]
        return Done({}, found["seconds"])

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerEnded(self.label)
        return line


def compete(
    engines: Path, rivals: Sequence[tuple[str, str, str]], arguments: argparse.Namespace
) -> tuple[Times, dict[str, float]]:
    """Times and peak memory in MiB of the engines and some rivals, all in memory at once."""
    parts = EngineBundle.load(engines).parts
    with ExitStack() as stack:
        sources = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "sources.npz"
        np.savez(sources, allow_pickle=False, **random_sources(parts, arguments.size))
        workers = [
            stack.enter_context(Worker(label, kind, place, sources, arguments.threads))
            for label, kind, place in ((TESTED, "engines", str(engines)), *rivals)
        ]
        names = part_names(parts)
        times = measure(workers, names, {}, arguments.runs)
        return times, {worker.label: worker.peak_mib for worker in workers}


def rival(text: str) -> tuple[str, str, str]:
    """`KIND=FOLDER` → label, kind, folder; other tools' files are named by their folder."""
    kind, _, place = text.partition("=")
    if kind == VAPOURSYNTH and all(Path(path).is_file() for path in place.split(":", 1)):
        return LABELS[kind], kind, place
    if kind not in (*LABELS, "files") or not Path(place).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: expected KIND=FOLDER, KIND of {', '.join(LABELS)}, files")
    return LABELS.get(kind, Path(place).name), kind, place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--rival", type=rival, action="append", required=True)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--size", type=parse_size, default=(512, 512))
    parser.add_argument("--threads", type=whole(1), default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=whole(1), default=5)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    labels = [label for label, _kind, _place in arguments.rival]
    if len(labels) > len(set(labels)):
        parser.error(f"--rival: {', '.join(labels)}: expected each once; a float twin in sub-pixel form is twin=")
    check_writable(arguments.output)
    results, peaks = [], {}
    for group in [[one] for one in arguments.rival] if arguments.pairs else [arguments.rival]:
        try:
            times, memory = compete(arguments.engines, group, arguments)
        except WorkerEnded as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            continue
        results.append(times)
        peaks.update(memory)
    if not results:
        raise SystemExit("error: nothing was measured: a contestant of every group ended early")
    floats = [label for label in peaks if label.endswith("FP32")]
    report = summarize(results, TESTED, floats)
    report["conditions"] = conditions(arguments.size, arguments.threads, arguments.runs)
    report["peak_mib"] = peaks
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw_chart(report, arguments.output / "benchmark.png")
    print_report(report)
    for label, peak in peaks.items():
        print(f"  {label:<20} {peak / 1024:5.1f} GiB at its peak")


if __name__ == "__main__":
    main()
