"""predict: how long engines would take on GPUs that are not here. A roofline over the engine's own kernels.

    seconds of a kernel = max(2·MACs / peak of its precision, bytes read and written / bandwidth) + launch

Peaks and bandwidth: engines/gpus.json, dense rates from data sheets. Nothing reaches its peak, caches save bytes,
and other cards get other kernels: a prediction orders and bounds, it does not measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.layers.coverage import Layer
from passionsr_trt.engines.layers.kernels import load_layers

LAUNCH = 2e-6  # seconds a kernel in a CUDA graph; 4 to 5 without one
RATES = {"Int8": "int8", "Half": "half", "BFloat16": "half"}


@dataclass(frozen=True)
class GPU:
    """float32, half, int8: 10^12 operations a second, two a MAC; bandwidth: 10^9 bytes a second."""

    name: str
    float32: float
    half: float
    int8: float
    bandwidth: float
    source: str


def known_gpus() -> list[GPU]:
    """Every GPU of the data file, in its order."""
    data = json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    return [GPU(name, **figures) for name, figures in data.items()]


def seconds(layers: Iterable[Layer], gpu: GPU) -> float:
    """One run of an engine that consists of `layers`."""
    total = 0.0
    for layer in layers:
        peak = getattr(gpu, RATES.get(layer.precision, "float32"))
        total += max(2 * layer.macs / (peak * 1e12), layer.bytes_moved / (gpu.bandwidth * 1e9)) + LAUNCH
    return total


def part_layers(bundle: EngineBundle, part: PartInfo) -> list[Layer]:
    """The kernels of one engine, checked against the manifest."""
    if bundle.backend == "openvino":
        raise UserError(f"{bundle.folder}: engines for OpenVINO", "expected TensorRT or TensorRT-RTX engines")
    layers = load_layers(bundle.open(part).with_name(f"{part.name}.layers.json"))
    if not any(layer.macs and layer.bytes_moved for layer in layers):
        raise UserError(
            f"{part.name}: its kernels' sizes are not known", "", "build for one --size, without --batch"
        )
    return layers


def predict(bundles: Iterable[EngineBundle], gpus: Iterable[GPU]) -> dict[str, dict[str, dict[str, float]]]:
    """GPU → label of the engines → part and `chain` → seconds."""
    kernels = {bundle.label: {part.name: part_layers(bundle, part) for part in bundle.parts} for bundle in bundles}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for gpu in gpus:
        table[gpu.name] = {}
        for label, parts in kernels.items():
            times = {name: seconds(layers, gpu) for name, layers in parts.items()}
            table[gpu.name][label] = {**times, "chain": sum(times.values())}
    return table


def print_table(table: dict[str, dict[str, dict[str, float]]]) -> None:
    """Milliseconds; the last column is the first engines' time over the last's."""
    print("predicted milliseconds (a roofline over the engines' kernels, not a measurement)")
    first, last = (list(next(iter(table.values())))[index] for index in (0, -1))
    parts = list(table[next(iter(table))][first])
    print(f"  {'':<16}{'':<6}" + "".join(f"{part:>13}" for part in parts))
    for gpu, rows in table.items():
        for label, times in rows.items():
            print(f"  {gpu:<16}{label:<6}" + "".join(f"{times[part] * 1e3:>13.2f}" for part in parts))
        if first != last:
            ratios = "".join(f"{rows[first][part] / rows[last][part]:>12.2f}×" for part in parts)
            print(f"  {'':<16}{'ratio':<6}{ratios}")
