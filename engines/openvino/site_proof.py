"""Every INT8 site of a built engine by itself, against the bundle.

Sub-graphs of the engine (engines/graph/segments.py) take what the bundle has at their inputs in ONNX Runtime, and
are compared with what it has at their results. Each channel, row and column is judged for itself: one that is
wrong counts little in a whole tensor. Right executors differ by float rounding and by a few codes near a tie,
which `allowed` reckons from the site's own weights. Sub-graphs run in float32, whatever the engine does with the
rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.external import on_disk
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.graph.rewriting import Graph
from passionsr_trt.engines.graph.segments import Segment, joined, port_quantizer, port_values, quantizer, segments
from passionsr_trt.engines.openvino.compile import compile_content
from tqdm import tqdm

Tensors = dict[str, np.ndarray]
AT_ONCE, WEIGHTS_AT_ONCE = 32, 100_000_000  # sub-graphs compiled side by side, and bytes of codes in them
NORM = 1e-2  # of a slice's norm: float rounding, norms and softmax of two executors
TIES, SHARE = 16, 1e-3  # codes that a slice reads and that may fall the other way: so many, and this share of them
TINY = 1e-20


def prove_sites(part: PartInfo, path: Path, judge: Path, feeds: Mapping[str, Tensors]) -> Tensors:
    """Picture → the part's output by the bundle's graph in `judge`; feeds: picture → the part's inputs.

    UserError names the first site of the engine in `path` that gives something else.
    """
    engine, bundle = (Graph(onnx.load(str(file), load_external_data=False), file.parent) for file in (path, judge))
    waiting = {str(index): segment for index, segment in enumerate(segments(engine, bundle))}
    walls = {wall.name: wall for segment in waiting.values() for wall in segment.walls}
    wanted = {name for segment in waiting.values() for name in (*segment.results, *segment.inputs)}
    wanted |= {port_quantizer(bundle, wall).output[0] for wall in walls.values()}
    values = _values(bundle, judge, wanted - {tensor.name for tensor in part.inputs} - {part.output.name}, feeds)
    for found in values.values():
        found |= {name: port_values(engine, wall, bundle, found) for name, wall in walls.items()}
    with tqdm(total=len(waiting), desc=f"proving {part.name}", unit="port", leave=False) as progress:
        while waiting:
            group = _some(engine, waiting)
            model, takes = joined(engine, group, next(iter(values.values())))
            compiled = compile_content(model.SerializeToString())
            for picture, found in values.items():
                results = compiled({name: found[tensor] for name, tensor in takes.items()})
                for key, segment in group.items():
                    for name, product in segment.results.items():
                        site = product.name.split("/")[0]
                        _judge(bundle, site, results[f"{key}/{name}"], found[name], picture)
            progress.update(len(group))
    return {picture: found[part.output.name] for picture, found in values.items()}


def _some(engine: Graph, waiting: dict[str, Segment]) -> dict[str, Segment]:
    """The next ones, taken out: one at least, as many as fit."""
    group: dict[str, Segment] = {}
    size = 0
    while waiting and len(group) < AT_ONCE and size < WEIGHTS_AT_ONCE:
        key = next(iter(waiting))
        group[key] = waiting.pop(key)
        names = {name for node in group[key].nodes for name in node.input if name in engine.constants}
        size += sum(prod(engine.constants[name].dims) for name in names)
    return group


def wrong(fact: str, expected: str) -> UserError:
    """OpenVINO's kernels are."""
    return UserError(
        f"OpenVINO's kernels are wrong on this CPU: {fact}",
        f"expected {expected}",
        "use the float engines and report this",
    )


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """‖a − b‖₂/‖b‖₂"""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), TINY))


def _values(bundle: Graph, judge: Path, names: Iterable[str], feeds: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Picture → inputs, output and the tensors `names` of the graph in `judge`, in ONNX Runtime."""
    model = onnx.ModelProto()
    model.CopyFrom(bundle.model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    with on_disk(model, judge) as path:
        session = reference_session(path)
    outputs = [value.name for value in session.get_outputs()]
    return {
        picture: {**feed, **dict(zip(outputs, session.run(outputs, feed), strict=True))}
        for picture, feed in feeds.items()
    }


def _judge(bundle: Graph, site: str, found: np.ndarray, expected: np.ndarray, picture: str) -> None:
    """UserError where a slice of a site's result is further off than `allowed`."""
    if found.shape != expected.shape:
        raise wrong(f"{site} gives {list(found.shape)}", f"ONNX Runtime's {list(expected.shape)}")
    off = (found.astype(np.float64) - expected) ** 2
    for axis, most in allowed(bundle, site, expected).items():
        ratio = np.sqrt(_along(off, axis) / most)
        worst = int(np.argmax(np.where(np.isnan(ratio), np.inf, ratio)))
        if not ratio[worst] <= 1:
            raise wrong(
                f"{site} is off by {distance(found, expected):.1e} for {picture}, most at {worst} of axis {axis}",
                f"ONNX Runtime's result, {ratio[worst]:.1f} times closer",
            )


def _along(squares: np.ndarray, axis: int) -> np.ndarray:
    """Sums of all other axes."""
    return np.asarray(squares.sum(tuple(other for other in range(squares.ndim) if other != axis)))


def allowed(bundle: Graph, site: str, expected: np.ndarray) -> dict[int, np.ndarray]:
    """Axis → the squared error that each of its slices may have, of a site's result [B, C, …] or [B, …, C].

    (`NORM`·‖x‖)², ‖x‖ of the slice or their mean where that is more, and what `TIES` + `SHARE`·N of the N codes do
    that a slice reads: one of input channel c moves the result by Δ·‖W[:, c]‖. Products of two activations have
    no W.
    """
    product = bundle.named[site]
    channel = 1 if product.op_type == "Conv" else expected.ndim - 1
    weight = bundle.producers.get(product.input[1])
    energy, channels, reach = 0.0, 1, 1
    if weight is not None and not quantizer(bundle, product.input[1]):
        step = bundle.value(quantizer(bundle, product.input[0])[-1].input[1])
        codes, scales = (bundle.value(name) for name in weight.input[:2])
        assert step is not None and codes is not None and scales is not None
        rows = codes if product.op_type == "Conv" else codes.T
        squares = (rows * scales.reshape(-1, *[1] * (rows.ndim - 1)).astype(np.float64)) ** 2
        energy = float(step) ** 2 * float(_along(squares, 1).max())
        channels, reach = rows.shape[1], rows.shape[-1] if rows.ndim > 2 else 1
    positions, found = expected.size / expected.shape[channel], {}
    for axis in range(1, expected.ndim):
        norms = _along(expected.astype(np.float64) ** 2, axis)
        if axis == channel:
            read, share = channels * positions, energy / expected.shape[axis]
        else:
            read, share = channels * positions * reach / expected.shape[axis], energy
        found[axis] = NORM**2 * np.maximum(norms, norms.mean()) + (TIES + SHARE * read) * share + TINY
    return found
