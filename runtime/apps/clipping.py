"""Which ports clip: how much of what they meet reaches beyond their boundaries, counted beside the chain.

A value is clipped where it lies more than half a code beyond the outermost code: more is lost than by rounding.
In a copy of a part's graph each port's Q has beside it

    x → Greater than the top, Less than the bottom → Or → ReduceMean, of rows, then of these: the share

1. top, bottom = Δ·(outermost code ± half a code − zero point). Signed codes grow by 128 where an engine has
   unsigned ones.
2. Codes of fewer than 8 bits have a Clip in front of Q: what comes into it is counted. A limit that is not the
   outermost code is the network's own, a ReLU's above all, which the exporter merges with it: that side counts
   nothing.
3. Attention in bfloat16, which ONNX Runtime has no CPU kernels for, runs in float32.

The copies run in the reference executor on the tensors that the quantized chain gives each part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.bundles import Bundle, EngineBundle
from passionsr_trt.engines.bundle.formats import FP8, INT8, SIGNED, TO_UNSIGNED
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.names import INPUT, QUANTIZE, parse_name
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.pictures.pictures import chain_sources, to_array, upscale
from passionsr_trt.runtime.core.chain import Chain
from PIL import Image

Tensors = dict[str, np.ndarray]
Shares = dict[str, float]  # port → the share of its values that is clipped
MUCH = 1e-3  # a share of values that is worth a word
FP8_MOST = 448  # E4M3's largest number
LAID_OUT = ("Reshape", "Transpose")  # what an engine may put between Clip and Q
NEAR = 0.1  # of a code, from rounding of a Clip's limits and of the scale, in half precision most


@dataclass(frozen=True)
class Counted:
    """A port whose values in the tensor `x` are counted that lie below `bottom` or above `top`."""

    port: str
    x: str
    bottom: float
    top: float


def clipping(bundle: Bundle, chain: Chain, kinds: Mapping[str, Iterable[Image.Image]]) -> dict[str, Shares]:
    """Kind of pictures → port → the share of its values that is clipped, the mean over the pictures of that kind.

    chain: the bundle's, opened. Kinds without pictures are left out; of float bundles, and of engines that are no
    graphs, nothing is said. Pictures are run whole; those larger than the engines take are left out.
    """
    if bundle.spec is None or (isinstance(bundle, EngineBundle) and not bundle.backend.stores_graphs):
        return {}
    captured = {kind: list(_captured(chain, pictures)) for kind, pictures in kinds.items()}
    captured = {kind: found for kind, found in captured.items() if found}
    shares: dict[str, Shares] = {kind: {} for kind in captured}
    total = len(bundle.parts) * sum(map(len, captured.values()))
    with Bar(total=total, desc="counting what is clipped", unit="run") as progress:
        for part in bundle.parts if captured else ():
            path = open_graph(bundle, part)
            graph, counted = counting_graph(path, part, bundle.spec)
            if not counted:
                continue
            session = reference_session(graph, folder=path.parent)
            for kind, found in captured.items():
                rows = []
                for tensors in found:
                    rows.append(session.run(list(counted), part.feed(tensors)))
                    progress.update()
                shares[kind] |= zip(counted.values(), np.mean(rows, 0).tolist(), strict=True)
    return {kind: found for kind, found in shares.items() if found}


def clipping_line(shares: Shares) -> str:
    """`2 of 33 ports clip more than 0.1% of their values; most of all network.body.12: 3.2%`."""
    most = max(shares, key=shares.__getitem__)
    count = sum(share > MUCH for share in shares.values())
    text = f"{count} of {len(shares)} ports clip more than {MUCH:.1%} of their values"
    return f"{text}; most of all {most}: {shares[most]:.1%}" if count else text


def _captured(chain: Chain, pictures: Iterable[Image.Image]) -> Iterator[Tensors]:
    """All tensors of the chain on each picture that its engines take whole."""
    least, most = ((0, 0), (math.inf, math.inf)) if chain.limits is None else chain.limits
    for rgb in pictures:
        enlarged = to_array(upscale(rgb, chain.model.upscale))
        if all(side <= limit for side, limit in zip(enlarged.shape[1:], most, strict=True)):
            yield chain.tensors(chain_sources(rgb, enlarged, chain.parts, seed=0, least=least))


def counting_graph(path: Path, part: PartInfo, spec: QuantSpec) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A part's graph that gives each port's share alone, and its outputs' names → the ports.

    Weights outside the file stay there.
    """
    model = onnx.load(str(path), load_external_data=False)
    graph, outputs = model.graph, dict[str, str]()
    # by ports: an engine may have one's Q twice
    found = {entry.port: entry for entry in counted_ports(graph, part, spec)}
    del graph.output[:], graph.value_info[:]
    for node in graph.node:
        if any(entry.name == "to" and entry.i == TensorProto.BFLOAT16 for entry in node.attribute):
            node.op_type = "Identity"
            del node.attribute[:]
    rows = helper.make_tensor("clipped/rows", TensorProto.INT64, [1], [-1])
    graph.initializer.append(rows)
    for entry in found.values():
        name = f"clipped/{entry.port}"
        for side, limit in (("top", entry.top), ("bottom", entry.bottom)):
            graph.initializer.append(helper.make_tensor(f"{name}/{side}", TensorProto.FLOAT, [], [limit]))
        graph.node.extend(
            [
                helper.make_node("Cast", [entry.x], [f"{name}/x"], to=TensorProto.FLOAT),
                helper.make_node("Greater", [f"{name}/x", f"{name}/top"], [f"{name}/above"]),
                helper.make_node("Less", [f"{name}/x", f"{name}/bottom"], [f"{name}/below"]),
                helper.make_node("Or", [f"{name}/above", f"{name}/below"], [f"{name}/beyond"]),
                helper.make_node("Cast", [f"{name}/beyond"], [f"{name}/ones"], to=TensorProto.FLOAT),
                # rows first: float32 does not count beyond 2**24
                helper.make_node("ReduceMean", [f"{name}/ones", rows.name], [f"{name}/of_rows"], keepdims=0),
                helper.make_node("ReduceMean", [f"{name}/of_rows"], [name], keepdims=0),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
        outputs[name] = entry.port
    return model, outputs


def counted_ports(graph: onnx.GraphProto, part: PartInfo, spec: QuantSpec) -> Iterator[Counted]:
    """The ports of a part's graph, and what of their values is clipped; those whose scale is no constant are left
    out, as export writes none.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    givers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != QUANTIZE or not constants.keys() >= {*node.input[1:]}:
            continue
        x, scale, zero = node.input
        step = _number(constants[scale])
        low, high, half = _outermost(constants[zero], spec)
        name = parse_name(node.name)
        port = name.owner if name.of == INPUT else f"{part.name}.{scale.removesuffix('.scale')}"
        if constants[zero].data_type != FP8.onnx_type and spec.activation_codes != SIGNED:
            clip = _clip_in_front(x, givers)
            if clip is not None and constants.keys() >= {*clip.input[1:]}:
                x, *limits = clip.input
                least, most = (_number(constants[limit]) / step for limit in limits)
                low = low if abs(least - low) < NEAR else -math.inf
                high = high if abs(most - high) < NEAR else math.inf
        yield Counted(port, x, (low - half) * step, (high + half) * step)


def _number(tensor: TensorProto) -> float:
    return float(numpy_helper.to_array(tensor).item())


def _outermost(zero: TensorProto, spec: QuantSpec) -> tuple[float, float, float]:
    """What the outermost codes of a port stand for, in steps, and how far beyond them a value rounds to them."""
    if zero.data_type == FP8.onnx_type:
        return -FP8_MOST, FP8_MOST, FP8.half_step
    shift = TO_UNSIGNED if zero.data_type == TensorProto.UINT8 else 0
    low, high = (code + shift - int(_number(zero)) for code in spec.activation_codes)
    return low, high, INT8.half_step


def _clip_in_front(x: str, givers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The Clip that makes a port's codes fewer than the type has."""
    node = givers.get(x)
    while node is not None and node.op_type in LAID_OUT:
        node = givers.get(node.input[0])
    return node if node is not None and node.op_type == "Clip" and len(node.input) == 3 else None
