"""Where an OpenVINO engine's time goes: milliseconds by kind of kernel, from OpenVINO's own counters."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, cast

from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.core.chain import Arrays, Chain

if TYPE_CHECKING:  # OpenVINO itself may not be installed
    from passionsr_trt.runtime.backends.host import HostExecutor
    from passionsr_trt.runtime.backends.openvino import OpenVINOEngine

RUNS = 3


def check_profiled(bundle: EngineBundle) -> None:
    """Refuse engines that have no such counters, before anything is run."""
    if bundle.backend.on_gpu:
        raise UserError(
            f"{bundle.folder}: no profile of engines for {bundle.backend}",
            "expected OpenVINO engines",
            "leave --profile out",
        )


def profile_chain(chain: Chain, sources: Arrays) -> dict[str, dict[str, float]]:
    """Part → kernel kind → milliseconds per run (mean of 3), the most expensive first; of OpenVINO engines."""
    tensors = chain.tensors(sources)
    profile = {}
    for part in chain.parts:
        feed = part.feed(tensors)
        engine = cast("OpenVINOEngine", cast("HostExecutor", chain.executor).engines[part.name])
        compiled = engine.compile({name: x.shape for name, x in feed.items()}, PERF_COUNT=True)
        request = compiled.create_infer_request()
        totals: defaultdict[str, float] = defaultdict(float)
        for index in range(RUNS + 1):
            request.infer(feed)
            if index:
                for layer in request.profiling_info:
                    totals[f"{layer.node_type} {layer.exec_type}"] += layer.real_time.total_seconds() * 1e3 / RUNS
        profile[part.name] = {
            kind: round(time, 2)
            for kind, time in sorted(totals.items(), key=lambda item: -item[1])
            if time >= 0.005
        }
    return profile


def print_profile(profile: dict[str, dict[str, float]], most: int = 6) -> None:
    """The most expensive kinds of each part."""
    for part, kinds in profile.items():
        total = sum(kinds.values())
        print(f"\n  {part}: {total:.0f} ms")
        for kind, time in list(kinds.items())[:most]:
            print(f"    {time:8.1f} ms  {time / total:5.1%}  {kind}")
