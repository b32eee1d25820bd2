"""benchmark: INT8 engines and float baselines side by side, in one run, in turn."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from passionsr_trt.engines.build import versions
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle, check_same_model, part_names
from passionsr_trt.engines.bundle.wiring import PartInfo, Size, chain_multiple, reference_size, sources_of
from passionsr_trt.engines.common.arguments import check_multiple
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import extra_of, install_hint
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.runtime.backends.loading import open_engines, open_onnx
from passionsr_trt.runtime.backends.openvino_profile import check_profiled, print_profile, profile_chain
from passionsr_trt.runtime.core.chain import Arrays, Chain

ROUNDS = 20  # to choose by
Times = dict[str, dict[str, list[float]]]  # contestant → part → seconds of each round


@dataclass(frozen=True)
class BenchmarkRequest:
    """engines: INT8, under test; baseline: float; onnx: a float ONNX bundle, run by ONNX Runtime's `provider`.

    size: output pixels (height, width), None: about 512×512. profile: the INT8 time by kernel too. html: a page
    that is written too; command: as typed, shown there.
    """

    engines: Path
    baseline: Path
    output: Path
    size: Size | None = None
    onnx: Path | None = None
    provider: str = "cpu"
    runs: int = 5
    threads: int = 0
    profile: bool = False
    html: Path | None = None
    command: str = ""


def benchmark(request: BenchmarkRequest) -> int:
    """Time all contestants in turn; figures and chart into `output`."""
    tested, makers = contestants(request)
    check_writable(request.output)
    if request.html:
        from passionsr_trt.runtime.apps.html_report import check_report

        check_report(request.html)
    with ExitStack() as opened:
        chains = [opened.enter_context(closing(make())) for make in makers]
        size = request.size or reference_size(tested.parts)
        sources = random_sources(tested.parts, size)
        times = measure(chains, part_names(tested.parts), sources, request.runs)
        report = summarize([times], tested=chains[0].label)
        report["title"] = chains[0].title
        report["conditions"] = conditions(size, request.threads, request.runs)
        if request.profile:
            report["profile"] = profile_chain(chains[0], sources)
    text = json.dumps(report, indent=1) + "\n"
    request.output.mkdir(parents=True, exist_ok=True)
    (request.output / "benchmark.json").write_text(text, encoding="utf-8")
    chart = draw_chart(report, request.output / "benchmark.png")
    print_report(report)
    if request.profile:
        print_profile(report["profile"])
    print(f"  benchmark.json{' and benchmark.png' if chart else ''} in {request.output}")
    if not chart:
        how = install_hint(extra_of("matplotlib"))
        print(f"  no chart: matplotlib is not installed; {how}", file=sys.stderr)
    if request.html:
        from passionsr_trt.runtime.apps.html_report import stated, write_benchmark

        write_benchmark(request.html, report, stated(report["conditions"], request.command))
        print(f"  report {request.html}")
    return 0


def contestants(request: BenchmarkRequest) -> tuple[EngineBundle, list[Callable[[], Chain]]]:
    """The engines under test, and what opens each contestant, them first. UserError where they do not compare."""
    tested = EngineBundle.load(request.engines)
    if request.size is not None:
        check_multiple(request.size, chain_multiple(tested.parts))
    baseline = EngineBundle.load(request.baseline)
    check_same_model(tested, baseline)
    if tested.spec is None or baseline.spec is not None:
        raise UserError("--engines must be INT8 and --baseline float", f"got {tested.label} and {baseline.label}")
    if request.profile:
        check_profiled(tested)
    makers: list[Callable[[], Chain]] = [
        partial(open_engines, tested, request.threads),
        partial(open_engines, baseline, request.threads),
    ]
    if request.onnx:
        onnx_bundle = OnnxBundle.load(request.onnx)
        check_same_model(tested, onnx_bundle)
        makers.append(partial(open_onnx, onnx_bundle, request.threads, request.provider))
    return tested, makers


class Timed(Protocol):
    @property
    def seconds(self) -> Mapping[str, float]: ...


class Contestant(Protocol):
    """What can be timed: a Chain, or anything that runs a picture and tells the seconds of each part."""

    label: str

    def run(self, sources: Arrays, /) -> Timed: ...


def measure(chains: Sequence[Contestant], parts: Sequence[str], sources: Arrays, runs: int) -> Times:
    """Seconds per contestant and part: one warm-up each, then rounds in which every one runs once.

    The order turns by one each round, so that no contestant always follows the same one.
    """
    times: Times = {chain.label: {part: [] for part in (*parts, "chain")} for chain in chains}
    for chain in chains:
        chain.run(sources)
    with Bar(total=runs * len(chains), desc="benchmark", unit="run") as progress:
        for index in range(runs):
            turn = index % len(chains)
            for chain in (*chains[turn:], *chains[:turn]):
                seconds = chain.run(sources).seconds
                for part in parts:
                    times[chain.label][part].append(seconds[part])
                times[chain.label]["chain"].append(sum(seconds.values()))
                progress.set_postfix_str(f"{chain.label} {times[chain.label]['chain'][-1]:.2f} s")
                progress.update()
    return times


def seconds_by_part(
    built: Sequence[EngineBundle], size: Size | None = None, rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """Part → label of the engines → median seconds at `size`, or the one they are tuned for; they take turns."""
    with ExitStack() as opened:
        chains = [opened.enter_context(closing(open_engines(engines))) for engines in built]
        tuned = getattr(built[0].target, "size", None) or built[0].model.size
        size = size or tuned or reference_size(built[0].parts)
        names = part_names(built[0].parts)
        times = measure(chains, names, random_sources(built[0].parts, size), rounds)
        labels = {engines.label: chain.label for engines, chain in zip(built, chains, strict=True)}
    return {
        part: {label: float(np.median(times[chain][part])) for label, chain in labels.items()} for part in names
    }


def random_sources(parts: Sequence[PartInfo], size: Size, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded noise [1, C, H, W] in [-1, 1]: the time does not depend on what is shown."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.random(tensor.at(size), dtype=np.float32) * 2 - 1
        for name, tensor in sources_of(parts).items()
    }


def summarize(groups: Sequence[Times], tested: str, floats: Sequence[str] = ()) -> dict[str, Any]:
    """Median, p10, p90 per contestant and part; ratios are quotients of a group's medians.

    groups: contestants that were measured in turn, `tested` in each of them. floats: the rivals of which the
    fastest counts for each part, all unless named. Over these, the chain's ratio is of sums of the parts' medians
    on both sides, so that it lies between the parts' ratios: a median of sums is no sum of medians.
    """
    parts = list(next(iter(groups[0].values())))  # the last is the chain
    seconds: Times = {}
    ratios: dict[str, dict[str, float]] = {}
    for times in groups:
        for label, rounds in times.items():
            kept = seconds.setdefault(label, {part: [] for part in parts})
            for part in parts:
                kept[part] += rounds[part]
            if label != tested:
                ratios[label] = {
                    part: float(np.median(rounds[part]) / np.median(times[tested][part])) for part in parts
                }
    figures = {
        label: {
            part: dict(
                zip(("p10", "median", "p90"), np.percentile(rounds[part], (10, 50, 90)).tolist(), strict=True)
            )
            for part in parts
        }
        for label, rounds in seconds.items()
    }
    fastest = {part: min(ratios[label][part] for label in floats or ratios) for part in parts[:-1]}
    ours = {part: figures[tested][part]["median"] for part in parts[:-1]}
    fastest["chain"] = sum(fastest[part] * ours[part] for part in ours) / sum(ours.values())
    return {"tested": tested, "seconds": figures, "speedup": ratios, "speedup_over_fastest_parts": fastest}


def conditions(size: tuple[int, int], threads: int, runs: int) -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    return {
        "output_size": f"{size[0]}x{size[1]}",
        "batch": 1,
        "threads": threads or os.cpu_count(),
        "rounds": runs,
        "cpu": cpu_name(),
        "versions": versions(),
    }


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def print_report(report: dict[str, Any]) -> None:
    state = report["conditions"]
    print(
        f"\nseconds, median of {state['rounds']} alternating rounds, {state['output_size']} output, batch 1, "
        f"{state['threads']} threads, {state['cpu']}; copies to and from a GPU are not counted"
    )
    parts = list(report["speedup_over_fastest_parts"])
    header = "".join(f"{part:>14}" for part in parts)
    print(f"  {'':<20}{header}")
    for label, figures in report["seconds"].items():
        row = "".join(f"{figures[part]['median']:>14.3f}" for part in parts)
        print(f"  {label:<20}{row}")
    for label, ratios in report["speedup"].items():
        row = "".join(f"{ratios[part]:>13.2f}×" for part in parts)
        print(f"  {'vs ' + label:<20}{row}")
    row = "".join(f"{value:>13.2f}×" for value in report["speedup_over_fastest_parts"].values())
    print(f"  {'vs fastest float':<20}{row}")
    print("  vs fastest float: the fastest of each part; chain: the sums of the parts' medians, on both sides")


def draw_chart(report: dict[str, Any], path: Path) -> bool:
    """Stacked bars, a contestant each, with p10–p90 of the chain. False where matplotlib is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.7 * len(report["seconds"])), layout="constrained")
    labels = list(report["seconds"])
    left = np.zeros(len(labels))
    parts = [part for part in report["speedup_over_fastest_parts"] if part != "chain"]
    for part in parts:
        widths = np.array([report["seconds"][label][part]["median"] for label in labels])
        axes.barh(labels, widths, left=left, label=part)
        left += widths
    for index, label in enumerate(labels):
        chain = report["seconds"][label]["chain"]
        axes.plot([chain["p10"], chain["p90"]], [index, index], color="black", linewidth=1)
        ratio = report["speedup"].get(label, {}).get("chain")
        note = f"  {chain['median']:.2f} s" + (f" (INT8 is {ratio:.2f}× as fast)" if ratio else "")
        axes.text(chain["p90"], index, note, va="center")
    axes.set_xlim(0, left.max() * 1.45)
    axes.invert_yaxis()
    state = report["conditions"]
    axes.set_xlabel(f"seconds per image, {state['output_size']} output, {state['threads']} threads; line: p10–p90")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(parts), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
