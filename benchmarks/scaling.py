"""How the chain's time and memory grow with the picture and shrink with threads: INT8 and float engines, a plot.

    python benchmarks/scaling.py --engines demo/out/engines --baseline demo/out/float -o out/scaling

Every figure comes from a process of its own, the engines in turn: once to warm up, then the median of runs that
take ten seconds together. Peak memory is that process's, colour fix and all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from own_commands import peak_mib
from passionsr_trt.engines.common.arguments import whole
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.runtime.apps.benchmark import conditions
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image

LEAST_SECONDS = 10.0
COLOURS = {"INT8": "#4c78a8", "FP32": "#f58518"}


def upscale(engines: Path, side: int, threads: int, overlap: int | None, result: Path) -> None:
    """One figure: `side`² pixels out, written to `result` as JSON."""
    options = Options(overlap=overlap)
    chain = load_engines(engines, threads)
    noise = np.random.default_rng(0).integers(0, 256, (side // 64, side // 64, 3), np.uint8)
    small = (side // chain.model.upscale,) * 2
    picture = Image.fromarray(noise).resize(small, Image.Resampling.BICUBIC)
    tiles = super_resolve(chain, picture, options).tiles  # compiles
    seconds: list[float] = []
    end = time.monotonic() + LEAST_SECONDS
    while not seconds or time.monotonic() < end:
        seconds.append(sum(super_resolve(chain, picture, options).seconds.values()))
    result.write_text(
        json.dumps({"seconds": float(np.median(seconds)), "runs": len(seconds), "tiles": str(tiles or "untiled")})
    )


def figures(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of label, side, threads, seconds, peak_mib, tiles: all sizes with all threads, one size with fewer."""
    most = os.cpu_count() or 1
    fewer = [2**power for power in range(most.bit_length()) if 2**power < most]
    cases = [(side, most) for side in arguments.sizes] + [(arguments.sizes[0], count) for count in fewer]
    rows = []
    for side, threads in cases:
        for label, engines in (("INT8", arguments.engines), ("FP32", arguments.baseline)):
            if label == "FP32" and side > arguments.baseline_up_to:
                continue
            path = arguments.output / f"{label}-{side}-{threads}.json"
            words = [sys.executable, __file__, "--one", engines, side, threads, arguments.overlap, path]
            peak = peak_mib([str(word) for word in words])
            row = {
                "label": label,
                "side": side,
                "threads": threads,
                "peak_mib": peak,
                **json.loads(path.read_text()),
            }
            path.unlink()
            rows.append(row)
            print(
                f"{label} {side:5}² {threads:3} threads {row['seconds']:8.2f} s, {rate(row):6.2f} s a megapixel, "
                f"{peak / 1024:5.2f} GiB at its peak, {row['tiles']}, {row['runs']} runs",
                flush=True,
            )
    return rows


def rate(row: dict[str, Any]) -> float:
    """Seconds per output megapixel."""
    return float(row["seconds"] / (row["side"] ** 2 / 1e6))


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Seconds a megapixel and peak memory over the picture's side, images a minute over threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, memory, threads) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    most, first = max(row["threads"] for row in rows), min(row["side"] for row in rows)
    for label, colour in COLOURS.items():
        sizes = [row for row in rows if row["label"] == label and row["threads"] == most]
        counts = sorted(
            (row for row in rows if row["label"] == label and row["side"] == first), key=lambda row: row["threads"]
        )
        style = {"marker": "o", "color": colour, "label": label}
        speed.plot([row["side"] for row in sizes], [rate(row) for row in sizes], **style)
        memory.plot([row["side"] for row in sizes], [row["peak_mib"] / 1024 for row in sizes], **style)
        threads.plot([row["threads"] for row in counts], [60 / row["seconds"] for row in counts], **style)
    for axes, name in ((speed, "seconds per output megapixel"), (memory, "peak memory, GiB")):
        axes.set(xlabel="output side, pixels", ylabel=name, xscale="log")
        sides = sorted({row["side"] for row in rows})
        axes.set_xticks(sides, [str(side) for side in sides], minor=False)
        axes.minorticks_off()
    threads.set(
        xlabel="threads", ylabel=f"images of {first}² a minute", xticks=sorted({row["threads"] for row in rows})
    )
    for axes in (speed, memory, threads):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    speed.legend(frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        engines, side, threads, overlap, result = sys.argv[2:]
        given = None if overlap == "None" else int(overlap)
        return upscale(Path(engines), int(side), int(threads), given, Path(result))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--baseline", type=Path, required=True)
    parser.add_argument("--sizes", type=whole(64), nargs="+", default=[512, 1024, 2048], help="sides, pixels out")
    parser.add_argument("--baseline-up-to", type=whole(64), default=2048, help="largest side of the float engines")
    parser.add_argument("--overlap", type=whole(0), help="of tiles; without it as infer does by itself")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    check_writable(arguments.output)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = figures(arguments)
    state = conditions((arguments.sizes[0], arguments.sizes[0]), os.cpu_count() or 1, 1)
    draw(
        rows,
        f"{state['cpu']}, OpenVINO {state['versions']['openvino']}, batch 1",
        arguments.output / "scaling.png",
    )
    report = json.dumps({"rows": rows, "conditions": state}, indent=1) + "\n"
    (arguments.output / "scaling.json").write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
