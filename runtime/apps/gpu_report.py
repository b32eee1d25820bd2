"""doctor --gpu-report: all that docs/gpu.md calls unverified, tried one after another on the card at hand.

A row that fails is a result: the walk goes on, and one file says what happened. Without a GPU it says what it
would do.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from passionsr_trt.engines.build import versions
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import ORT_GPU, install
from passionsr_trt.engines.common.writing import write_atomic
from passionsr_trt.engines.tensorrt.gpu import gpus, jetson_model
from passionsr_trt.runtime.apps.benchmark import random_sources
from passionsr_trt.runtime.backends.loading import open_engines, open_onnx
from passionsr_trt.runtime.backends.tensorrt.bindings import binding
from passionsr_trt.runtime.core.chain import PROVIDERS, Chain
from passionsr_trt.runtime.core.planning import Options, plan_tiles
from passionsr_trt.runtime.core.tiling import run_picture

RUNS = 10  # of a measured picture, after one to warm up
PICTURES = 6  # in a row
Open = Callable[[Path, bool], Chain]  # engines, with CUDA graphs


class Skipped(Exception):
    """A row that has nothing to work on, and what is missing."""


@dataclass(frozen=True)
class Row:
    """state: `ok`, `failed` or `skipped`; found: figures, or the reason."""

    name: str
    state: str
    seconds: float
    found: dict[str, Any]


@dataclass
class Walk:
    """engines: INT8, as users run them; baseline: float engines; reference: the ONNX bundle of `engines`."""

    engines: Path
    baseline: Path | None = None
    reference: Path | None = None
    open_chain: Open = lambda folder, graph: open_engines(EngineBundle.load(folder), cuda_graph=graph)
    rows: list[Row] = field(default_factory=list)

    def steps(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Row → what it does; its docstring says it."""
        return {
            "load": self.load,
            "against ONNX Runtime": self.against_reference,
            "graphs on and off": self.graphs,
            "pictures in a row": self.in_a_row,
            "INT8 against float": self.against_float,
            "tiles": self.tiles,
            "batches": self.batches,
            "memory": self.memory,
            "second start": self.load,
            "ONNX Runtime on CUDA": lambda: self.provider("cuda"),
            "ONNX Runtime on TensorRT": lambda: self.provider("tensorrt"),
        }

    def run(self) -> list[Row]:
        """Every row, whatever became of the ones before."""
        for name, step in self.steps().items():
            start = time.perf_counter()
            try:
                state, found = "ok", step()
            except Skipped as reason:
                state, found = "skipped", {"reason": str(reason)}
            except Exception as error:  # whatever it is belongs in the report
                trace = "" if isinstance(error, UserError) else traceback.format_exc()
                state, found = "failed", {"reason": f"{type(error).__name__}: {error}", "trace": trace}
            self.rows.append(Row(name, state, round(time.perf_counter() - start, 3), found))
            text = found.get("reason") or ", ".join(f"{key} {shown(value)}" for key, value in found.items())
            print(f"  {state:<8} {name}: {text}", flush=True)
        return self.rows

    def load(self) -> dict[str, Any]:
        """Open the engines and run one picture; the second time kernels and graphs may be kept."""
        start = time.perf_counter()
        with self._opened() as chain:
            opened = time.perf_counter() - start
            chain.run(self._sources(chain))
            return {
                "chain": chain.label,
                "open_s": opened,
                "first_picture_s": time.perf_counter() - start - opened,
            }

    def against_reference(self) -> dict[str, Any]:
        """Each part's relative error to its ONNX graph in ONNX Runtime, fed the same tensors."""
        with self._opened() as chain, self._reference("cpu") as judge:
            sources = self._sources(chain)
            tensors = judge.tensors(sources)
            alone = {part.name: chain.run_part(part, part.feed(tensors)).tensors for part in chain.parts}
            return {name: distance(found, tensors) for name, found in alone.items()}

    def graphs(self) -> dict[str, Any]:
        """The same picture with CUDA graphs and without: equal, and how fast each is."""
        results, seconds = [], {}
        for graph in (True, False):
            with self._opened(graph=graph) as chain:
                sources = self._sources(chain)
                results.append(chain.run(sources).tensors)
                seconds[f"ms_{'with' if graph else 'without'}"] = total(measured(chain, sources))
        return {"difference": distance(results[1], results[0]), **seconds}

    def in_a_row(self) -> dict[str, Any]:
        """Pictures one after another are what they are alone; their rate against the parts' own seconds."""
        with self._opened() as chain:
            jobs = [self._sources(chain, seed) for seed in range(PICTURES)]
            alone = [chain.run(job) for job in jobs]
            start = time.perf_counter()
            together = list(chain.stream(chain.parts, jobs))
            wall = (time.perf_counter() - start) / len(jobs)
            worst = max(distance(a.tensors, b.tensors) for a, b in zip(together, alone, strict=True))
            return {"difference": worst, "ms_a_picture": 1e3 * wall, "ms_of_parts": total(together[-1].seconds)}

    def against_float(self) -> dict[str, Any]:
        """Milliseconds of each part, and how many times as fast INT8 is, in turn."""
        if self.baseline is None:
            raise Skipped("no --baseline: float engines of the same model")
        with self._opened() as chain, self._opened(self.baseline) as slower:
            sources = self._sources(chain)
            ours, theirs = measured(chain, sources), measured(slower, sources)
        return {name: f"{1e3 * ours[name]:.2f} ms, {theirs[name] / ours[name]:.2f}x" for name in ours}

    def tiles(self) -> dict[str, Any]:
        """A picture larger than the engines take, in tiles, against ONNX Runtime in the same tiles."""
        with self._opened() as chain, self._reference("cpu") as judge:
            size = tuple(side + chain.multiple for side in self._size(chain))
            sources = random_sources(chain.parts, (size[0], size[1]))
            tiles = plan_tiles((size[0], size[1]), chain, Options())
            if tiles is None:
                raise Skipped("the engines take pictures of any size")
            expected = run_picture(judge, sources, tiles).tensors[chain.output]
            found = run_picture(chain, sources, tiles)
            return {"cut_into": str(tiles), "error": distance(found.tensors, {chain.output: expected})}

    def batches(self) -> dict[str, Any]:
        """The largest batch against pictures one by one: the same, and how many times as fast by the picture."""
        with self._opened() as chain:
            count = chain.batch or 1
            if count == 1:
                raise Skipped("engines of one at a time; build with --batch")
            one = self._sources(chain)
            many = {name: np.repeat(x, count, axis=0) for name, x in one.items()}
            single, batched = measured(chain, one), measured(chain, many)
            result = chain.run(many).tensors[chain.output][-1:]
            error = distance({chain.output: result}, chain.run(one).tensors)
            return {"batch": count, "difference": error, "speed_up": count * total(single) / total(batched)}

    def memory(self) -> dict[str, Any]:
        """What a picture was predicted to take on the card, and what it took."""
        with self._opened() as chain:
            if chain.memory is None:
                raise Skipped("nothing is predicted for these engines")
            size = self._size(chain)
            before = chain.memory.free
            pixels = size[0] * size[1]
            predicted = chain.memory.predict(pixels, {part.name: pixels for part in chain.parts})
            chain.run(self._sources(chain))
            left = chain.memory.free
            held = getattr(chain.executor, "held", lambda: 0)()
            return {"predicted_mib": predicted / 2**20, "taken_mib": (before - left + held) / 2**20}

    def provider(self, name: str) -> dict[str, Any]:
        """The ONNX bundle by one of ONNX Runtime's own GPU providers."""
        if PROVIDERS[name] not in onnxruntime.get_available_providers():
            raise Skipped(f"this ONNX Runtime has no {PROVIDERS[name]}: {install(ORT_GPU)} in place of [cpu]")
        with self._reference(name) as chain:
            return {"chain": chain.label, "ms": total(measured(chain, self._sources(chain)))}

    @contextmanager
    def _opened(self, folder: Path | None = None, graph: bool = True) -> Iterator[Chain]:
        with closing(self.open_chain(folder or self.engines, graph)) as chain:
            yield chain

    @contextmanager
    def _reference(self, provider: str) -> Iterator[Chain]:
        if self.reference is None:
            raise Skipped("no --reference: the ONNX bundle that the engines were built from")
        with closing(open_onnx(OnnxBundle.load(self.reference), provider=provider)) as chain:
            yield chain

    @staticmethod
    def _size(chain: Chain) -> tuple[int, int]:
        return (512, 512) if chain.limits is None else chain.limits[1]

    def _sources(self, chain: Chain, seed: int = 0) -> dict[str, np.ndarray]:
        return random_sources(chain.parts, self._size(chain), seed)


def driven_by() -> str:
    """What drives the GPU, or why nothing does."""
    try:
        return binding().name
    except UserError as error:
        return str(error)


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def distance(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest relative error ‖a − b‖ / ‖b‖ among the tensors that were found."""
    return max(
        float(np.linalg.norm(x - expected[name]) / max(float(np.linalg.norm(expected[name])), 1e-12))
        for name, x in found.items()
        if name in expected
    )


def measured(chain: Chain, sources: dict[str, np.ndarray]) -> dict[str, float]:
    """Median seconds of each part, copies not counted."""
    chain.run(sources)
    rounds = [chain.run(sources).seconds for _ in range(RUNS)]
    return {name: float(np.median([row[name] for row in rounds])) for name in rounds[0]}


def total(seconds: dict[str, float]) -> float:
    """Of all parts, in milliseconds."""
    return 1e3 * sum(seconds.values())


@dataclass(frozen=True)
class GpuReportRequest:
    """gpu_report: the file that is written; the others as in Walk."""

    gpu_report: Path
    engines: Path | None
    baseline: Path | None = None
    reference: Path | None = None


def gpu_report(request: GpuReportRequest) -> int:
    """Walk, and write the report; 0 where every row that could be tried went well."""
    if request.engines is None:
        raise UserError("--gpu-report: no engines", "expected --engines DIR", "build them with build-engines")
    walk = Walk(request.engines, request.baseline, request.reference)
    here = [asdict(gpu) for gpu in gpus()]
    if not here and jetson_model() is None:
        print("no NVIDIA GPU here; on a machine with one this would try, row by row:")
        for name, step in walk.steps().items():
            print(f"  {name}: {' '.join((step.__doc__ or 'the ONNX bundle by this provider.').split())}")
        return 1
    rows = walk.run()
    report = {
        "gpus": here,
        "jetson": jetson_model(),
        "versions": versions(),
        "driven_by": driven_by(),
        "rows": [asdict(row) for row in rows],
    }
    write_atomic(request.gpu_report, (json.dumps(report, indent=1) + "\n").encode())
    print(f"{request.gpu_report}: written; please send it with what you built")
    return 1 if any(row.state == "failed" for row in rows) else 0
