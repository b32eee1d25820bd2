"""predict: how long engines would take on GPUs that are not here. A roofline over the engine's own kernels.

    seconds of a kernel = max(2·MACs / peak of its precision, bytes read and written / bandwidth) + launch

Peaks and bandwidth: gpus.json, dense rates from data sheets. Nothing reaches its peak, caches save bytes, and
other cards get other kernels: a prediction orders and bounds, it does not measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import Choice, EngineBundle
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, FP8, INT8, capability
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.graph.coverage import Layer
from passionsr_trt.engines.graph.kernels import load_layers

LAUNCH = 2e-6  # seconds a kernel in a CUDA graph; 4 to 5 without one
RATES = {"Half": "half", "BFloat16": "half", INT8.layer_type: INT8.name, FP8.layer_type: FP8.name}
Table = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class KnownGPU:
    """float32, half, int8, fp8: 10^12 operations a second, two a MAC, 0 where it has none; bandwidth: 10^9 bytes a
    second; capability: `8.9`.
    """

    name: str
    float32: float
    half: float
    int8: float
    fp8: float
    bandwidth: float
    capability: str
    source: str

    def takes(self, parts: Iterable[PartInfo]) -> bool:
        """Does it multiply in every format of these parts?"""
        known = [CODE_FORMATS[part.format] for part in parts if part.format in CODE_FORMATS]
        return all(capability(self.capability) >= entry.capability for entry in known)


def gpu_for(capabilities: Sequence[str], name: str | None) -> KnownGPU:
    """The known GPU of this name, else the first of one of these compute capabilities; UsageError without one."""
    gpus = {gpu.name: gpu for gpu in known_gpus()}
    if name is not None and name not in gpus:
        raise UsageError(f"--gpu {name!r}: not known", f"expected one of {', '.join(gpus)}")
    fitting = [gpu for gpu in gpus.values() if gpu.capability in capabilities]
    if name is None and not fitting:
        asked = ", ".join(capabilities) or "the GPU at hand"
        raise UsageError(
            f"no known GPU of compute capability {asked}", f"expected --gpu, one of {', '.join(gpus)}"
        )
    return fitting[0] if name is None else gpus[name]


def rate(bundles: Sequence[EngineBundle], gpu: KnownGPU) -> Choice:
    """What every part of every bundle is predicted to take on a GPU."""
    rows = predict(bundles, [gpu])[gpu.name]
    parts = [part.name for part in bundles[0].parts]
    return Choice("predicted", gpu.name, {part: {label: rows[label][part] for label in rows} for part in parts})


def known_gpus() -> list[KnownGPU]:
    """Every GPU of the data file, in its order."""
    data = json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    return [KnownGPU(name, **figures) for name, figures in data.items()]


def seconds(layers: Iterable[Layer], gpu: KnownGPU) -> float:
    """One run of an engine that consists of `layers`."""
    total = 0.0
    for layer in layers:
        peak = getattr(gpu, RATES.get(layer.precision, "float32"))
        total += max(2 * layer.macs / (peak * 1e12), layer.bytes_moved / (gpu.bandwidth * 1e9)) + LAUNCH
    return total


def part_layers(bundle: EngineBundle, part: PartInfo) -> list[Layer]:
    """The kernels of one engine, checked against the manifest."""
    if not bundle.backend.on_gpu:
        raise UserError(
            f"{bundle.folder}: engines for {bundle.backend.label}", "expected TensorRT or TensorRT-RTX engines"
        )
    layers = load_layers(bundle.open(part).with_name(f"{part.name}.layers.json"))
    if not any(layer.macs and layer.bytes_moved for layer in layers):
        raise UserError(
            f"{part.name}: its kernels' sizes are not known", "", "build for one --size, without --batch"
        )
    return layers


def predict(bundles: Sequence[EngineBundle], gpus: Iterable[KnownGPU]) -> Table:
    """GPU → label of the engines → part and `chain` → seconds; without the engines that a GPU does not take."""
    kernels = {bundle.label: {part.name: part_layers(bundle, part) for part in bundle.parts} for bundle in bundles}
    table: Table = {}
    for gpu in gpus:
        table[gpu.name] = {}
        for bundle in bundles:
            if gpu.takes(bundle.parts):
                times = {name: seconds(layers, gpu) for name, layers in kernels[bundle.label].items()}
                table[gpu.name][bundle.label] = {**times, "chain": sum(times.values())}
    return table


def print_table(table: Table, labels: Sequence[str]) -> None:
    """Milliseconds; ratios are the first engines' time over the last's. labels: of all engines, in their order."""
    print("predicted milliseconds (a roofline over the engines' kernels, not a measurement)")
    first, last = labels[0], labels[-1]
    parts = next(list(times) for rows in table.values() for times in rows.values())
    wide = max(6, *(len(label) + 1 for label in labels))
    print(f"  {'':<16}{'':<{wide}}" + "".join(f"{part:>13}" for part in parts))
    for gpu, rows in table.items():
        for label in labels:
            times = rows.get(label)
            cells = (f"{times[part] * 1e3:.2f}" if times else "-" for part in parts)
            print(f"  {gpu:<16}{label:<{wide}}" + "".join(f"{cell:>13}" for cell in cells))
        if first != last and first in rows and last in rows:
            ratios = "".join(f"{rows[first][part] / rows[last][part]:>12.2f}×" for part in parts)
            print(f"  {'':<16}{'ratio':<{wide}}{ratios}")
