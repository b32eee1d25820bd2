"""INT8 engines against OpenVINO, ONNX Runtime and PyTorch eager, alternating in one run.

    python benchmarks/side_by_side.py --model demo/model --engines demo/out/engines/int8 \
        --baseline demo/out/engines/fp32 --onnx demo/out/onnx/fp32 -o demo/out/side_by_side

--baseline and --onnx may be left out: a large model does not fit four times. PyTorch lives in a process of its own
that waits between its turns, so it shares no threads with the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle import EngineBundle, OnnxBundle
from passionsr_trt.engines.cli import parse_size
from passionsr_trt.engines.manifest import check_writable
from passionsr_trt.runtime.benchmark import (
    Contestant,
    conditions,
    draw_chart,
    measure,
    print_report,
    summarize,
)
from passionsr_trt.runtime.chain import Chain


class TorchEager:
    """Stands in for a Chain: `run` asks the worker for one run and takes over its times."""

    label = "PyTorch eager FP32"

    def __init__(self, model: Path, size: tuple[int, int], threads: int) -> None:
        worker = Path(__file__).with_name("torch_worker.py")
        command = [sys.executable, str(worker), str(model), *map(str, (*size, threads))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: dict[str, float] = {}
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit("error: the PyTorch worker did not start")

    def run(self, _image: np.ndarray, _seed: int = 0) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.seconds = json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", type=parse_size, default=(512, 512))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    threads = os.cpu_count() or 1
    check_writable(arguments.output)
    eager = TorchEager(arguments.model, arguments.size, threads)
    try:
        chains: list[Contestant] = [Chain.from_engines(EngineBundle.load(arguments.engines), threads)]
        if arguments.baseline:
            chains.append(Chain.from_engines(EngineBundle.load(arguments.baseline), threads))
        if arguments.onnx:
            chains.append(Chain.from_onnx(OnnxBundle.load(arguments.onnx), threads))
        chains.append(eager)
        times = measure(chains, arguments.size, arguments.runs)
    finally:
        eager.close()
    report = summarize(times, tested_label=chains[0].label)
    report["conditions"] = conditions(arguments.size, threads, arguments.runs)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw_chart(report, arguments.output / "benchmark.png")
    print_report(report)


if __name__ == "__main__":
    main()
