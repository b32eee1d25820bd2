"""Every INT8 site of a built engine by itself, against the bundle: one sub-graph per port of the engine's graph.

    codes → DQ → Conv → activation, sums, Concat → Q → DQ → Conv of the site → result
    └ values that codes stand for come in                                     └ is judged

1. The convolutions and products that read one port are judged in one sub-graph, each by the first tensor behind it
   that the bundle's graph has too.
2. Going back from them a node belongs to it where nothing outside reads what it gives, or where the bundle's graph
   does not have what it gives; else what it gives comes in.
3. Behind its port it ends at the next Q. What comes in there is what the codes of the bundle's port stand for: no
   value is near a tie.
4. Integers (shapes) are constants; bfloat16 is left out: sub-graphs run in float32, whatever the engine does.
5. They take what the bundle has at their inputs in ONNX Runtime, and are compared with what it has at their
   results. Each channel, row and column is judged for itself: one that is wrong counts little in a whole tensor.
   Right executors differ by float rounding and by a few codes near a tie, which `allowed` reckons from the site's
   own weights.

What the whole graph fuses is fused here: no result is added within, no reader is taken away. A fault is seen where
it arises, not behind the sums that hide it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.names import owner_of, written_as
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.graph.rewriting import array, constant, giver, inputs_of, pads_of, readers_of
from passionsr_trt.engines.openvino.compile import compile_content

Tensors = dict[str, np.ndarray]
PRODUCTS = ("Conv", "MatMul", "Gemm")
READ_NO_VALUES = ("Shape", "Size")
COMES_IN = "/values"
OPSET = 20
AT_ONCE, WEIGHTS_AT_ONCE = 32, 100_000_000  # sub-graphs compiled side by side, and bytes of codes in them
NORM = 1e-2  # of a slice's norm: float rounding, norms and softmax of two executors
TIES, SHARE = 16, 1e-3  # codes that a slice reads and that may fall the other way: so many, and this share of them
TINY = 1e-20


@dataclass(frozen=True)
class Segment:
    """nodes: in the graph's order. results: tensor → the product that it is judged for. inputs: values that come
    in; walls: the Q's at which it ends.
    """

    nodes: tuple[ir.Node, ...]
    results: Mapping[str, ir.Node]
    inputs: tuple[ir.Value, ...]
    walls: tuple[ir.Node, ...]


class Original:
    """The bundle's graph of a part, and its nodes by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        graph = ir.load(path).graph
        self.nodes = {str(node.name): node for node in reversed(graph)}  # the first of a name
        self.tensors = {str(value.name) for value in graph.inputs}
        self.tensors |= {str(value.name) for node in graph for value in node.outputs}

    def port(self, quantize: ir.Node) -> ir.Node:
        """The Q that a Q of an engine was made from: they bear one name."""
        return self.nodes[written_as(str(quantize.name))]


def prove_sites(part: PartInfo, path: Path, judge: Path, feeds: Mapping[str, Tensors]) -> Tensors:
    """Picture → the part's output by the bundle's graph in `judge`; feeds: picture → the part's inputs.

    UserError names the first site of the engine in `path` that gives something else.
    """
    engine, bundle = ir.load(path).graph, Original(judge)
    waiting = {str(index): segment for index, segment in enumerate(segments(engine, bundle))}
    walls = {str(wall.name): wall for segment in waiting.values() for wall in segment.walls}
    values = _values(bundle, part, waiting.values(), feeds)
    for found in values.values():
        found |= {name: port_values(wall, bundle, found) for name, wall in walls.items()}
    with Bar(total=len(waiting), desc=f"proving {part.name}", unit="port", leave=False) as progress:
        while waiting:
            group = _some(waiting)
            content, takes = side_by_side(group, next(iter(values.values())))
            compiled = compile_content(content)
            for picture, found in values.items():
                results = compiled({name: found[tensor] for name, tensor in takes.items()})
                for key, segment in group.items():
                    for name, product in segment.results.items():
                        site = bundle.nodes[owner_of(str(product.name))]
                        _judge(site, results[f"{key}/{name}"], found[name], picture)
            progress.update(len(group))
    return {picture: found[part.output.name] for picture, found in values.items()}


def _some(waiting: dict[str, Segment]) -> dict[str, Segment]:
    """The next ones, taken out: one at least, as many as fit."""
    group: dict[str, Segment] = {}
    size = 0
    while waiting and len(group) < AT_ONCE and size < WEIGHTS_AT_ONCE:
        key = next(iter(waiting))
        group[key] = waiting.pop(key)
        read = {value for node in group[key].nodes for value in node.inputs if value is not None}
        size += sum(value.const_value.size for value in read if value.const_value is not None)
    return group


def _values(
    bundle: Original, part: PartInfo, found: Iterable[Segment], feeds: Mapping[str, Tensors]
) -> dict[str, Tensors]:
    """Picture → inputs, output and every tensor that sub-graphs take or are judged by, in ONNX Runtime."""
    names: set[str] = set()
    for segment in found:
        names |= {*segment.results, *(str(value.name) for value in segment.inputs)}
        names |= {str(bundle.port(wall).outputs[0].name) for wall in segment.walls}
    names -= {part.output.name, *(tensor.name for tensor in part.inputs)}
    model = onnx.load(str(bundle.path), load_external_data=False)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    session = reference_session(model, folder=bundle.path.parent)
    outputs = [value.name for value in session.get_outputs()]
    return {
        picture: {**feed, **dict(zip(outputs, session.run(outputs, feed), strict=True))}
        for picture, feed in feeds.items()
    }


def segments(engine: ir.Graph, bundle: Original) -> Iterator[Segment]:
    """The sub-graphs of the ports of an engine's graph, in its order."""
    ports: dict[ir.Value, list[ir.Node]] = {}
    for node in engine:
        if node.op_type in PRODUCTS and quantizer(inputs_of(node)[0]):
            ports.setdefault(inputs_of(node)[0], []).append(node)
    for products in ports.values():
        yield _segment(engine, products, bundle.tensors)


def quantizer(value: ir.Value) -> list[ir.Node]:
    """DQ, what moves codes, Q: the nodes that give a quantized activation, its Q last; none for other values."""
    found: list[ir.Node] = []
    node = giver(value, "DequantizeLinear")
    while node is not None:
        found.append(node)
        if node.op_type == "QuantizeLinear":
            return found
        node = inputs_of(node)[0].producer()
    return []  # codes of a weight


def _segment(graph: ir.Graph, products: list[ir.Node], known: set[str]) -> Segment:
    results, behind = _judged(products, known)
    own = {node for product in products for value in inputs_of(product)[:2] for node in quantizer(value)}
    inside, walls = {*products, *behind, *own}, dict[ir.Node, None]()
    needed = {value for node in inside for value in node.inputs}
    for node in reversed(graph):
        if node not in inside:
            missing = any(value in needed and value.name not in known for value in node.outputs)
            if not missing and not _feeds_only(node, inside, walls):
                continue
            inside.add(node)
        if node.op_type == "QuantizeLinear" and node not in own:
            walls[node] = None
        else:
            needed |= set(node.inputs)
        if node.op_type in PRODUCTS:  # what gives its codes is copied where others read it too
            inside |= {given for value in inputs_of(node)[:2] for given in quantizer(value)}
        inside |= {weight for value in node.inputs if (weight := _of_constants(value)) is not None}
    nodes = tuple(node for node in graph if node in inside)
    given = {value for node in nodes for value in node.outputs}
    taken = [value for node in nodes if node not in walls for value in node.inputs if value is not None]
    inputs = dict.fromkeys(value for value in taken if value not in given and value.const_value is None)
    return Segment(nodes, results, tuple(inputs), tuple(walls))


def _judged(products: list[ir.Node], known: set[str]) -> tuple[dict[str, ir.Node], set[ir.Node]]:
    """Rule 1: the first tensors behind products that the bundle has, and the nodes between."""
    results, behind = {}, set[ir.Node]()
    for product in products:
        waiting = [product.outputs[0]]
        while waiting:
            if (value := waiting.pop()).name in known:
                results[str(value.name)] = product
                continue
            behind |= set(readers_of(value))
            waiting += [given for reader in readers_of(value) for given in reader.outputs]
    return results, behind


def _feeds_only(node: ir.Node, inside: set[ir.Node], walls: Mapping[ir.Node, None]) -> bool:
    """Rule 2: does nothing outside read what a node gives, and something inside its value?"""
    if node.op_type in READ_NO_VALUES or any(value.is_graph_output() for value in node.outputs):
        return False
    readers = [reader for value in node.outputs for reader in readers_of(value)]
    readers = [reader for reader in readers if reader.op_type not in READ_NO_VALUES]
    return all(reader in inside for reader in readers) and any(reader not in walls for reader in readers)


def _of_constants(value: ir.Value | None) -> ir.Node | None:
    """The node that gives a value, where it reads constants: a weight's DequantizeLinear."""
    node = None if value is None else value.producer()
    return node if node is not None and node.inputs and array(node.inputs[0]) is not None else None


def port_values(quantize: ir.Node, bundle: Original, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """What an engine's port takes where the bundle's has the codes that `values` holds, float32.

    Unsigned codes are 128 more. A linear that became a convolution takes tokens as [B, K, N, 1], an enlargement
    behind Q takes one code of each it makes, a convolution that pads takes codes without the border.
    """
    original = bundle.port(quantize)
    scale, zero, own_zero = (array(value) for value in (*original.inputs[1:3], quantize.inputs[2]))
    codes = values[str(original.outputs[0].name)].astype(np.int16)
    (reader,) = readers_of(quantize.outputs[0])
    while reader.op_type != "DequantizeLinear":
        if reader.op_type == "Resize":
            sides = array(reader.inputs[2])
            codes = codes[:, :, :: int(sides[2]), :: int(sides[3])]
        (reader,) = readers_of(reader.outputs[0])
    product = readers_of(reader.outputs[0])[0]
    before = readers_of(readers_of(original.outputs[0])[0].outputs[0])[0]
    if product.op_type == "Conv" and codes.ndim == 3:
        codes = codes.transpose(0, 2, 1)[..., None]
    elif product.op_type == "Conv":
        top, left, bottom, right = (
            max(ours - theirs, 0) for ours, theirs in zip(pads_of(product), pads_of(before), strict=True)
        )
        codes = codes[:, :, top : codes.shape[2] - bottom, left : codes.shape[3] - right]
    shift = 128 if own_zero.dtype == np.uint8 and zero.dtype == np.int8 else 0
    return ((codes + (shift - own_zero.astype(np.int16))) * scale).astype(np.float32)


def side_by_side(found: Mapping[str, Segment], values: Mapping[str, np.ndarray]) -> tuple[bytes, dict[str, str]]:
    """Sub-graphs in one ONNX graph, names prefixed by their keys, and what its inputs take: input → tensor.

    values: of every tensor that comes in; the shapes and integers of other pictures are the same. A wall's value
    has the name of its Q.
    """
    graph, takes = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="segments"), dict[str, str]()

    def comes_in(name: str, tensor: str) -> ir.Value:
        if values[tensor].dtype.kind != "f":
            return constant(graph, name, values[tensor])
        takes[name] = tensor
        graph.inputs.append(ir.val(name, ir.DataType.FLOAT, values[tensor].shape))
        return graph.inputs[-1]

    for key, segment in found.items():
        own = {value: comes_in(f"{key}/{value.name}", str(value.name)) for value in segment.inputs}
        for node in segment.nodes:
            for value in node.inputs:
                if value is not None and value.const_value is not None:
                    own[value] = constant(graph, f"{key}/{value.name}", array(value))
            inputs = [None if value is None else own.get(value) for value in node.inputs]
            if node in segment.walls:
                inputs[0] = comes_in(f"{key}/{inputs_of(node)[0].name}{COMES_IN}", str(node.name))
            copy = _copy(node, key, inputs)
            own |= zip(node.outputs, copy.outputs, strict=True)
            graph.append(copy)
        for value, copied in own.items():
            if value.name in segment.results:
                copied.type = ir.TensorType(ir.DataType.FLOAT)
                graph.outputs.append(copied)
    return ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString(), takes


def _copy(node: ir.Node, key: str, inputs: list[ir.Value | None]) -> ir.Node:
    """A node of one sub-graph; one that casts to bfloat16 does nothing."""
    kind, attributes = node.op_type, list(node.attributes.values())
    if kind == "Cast" and node.attributes.get_int("to") == ir.DataType.BFLOAT16:
        kind, attributes = "Identity", []
    outputs = [ir.val(value.name and f"{key}/{value.name}") for value in node.outputs]
    return ir.Node(node.domain, kind, inputs, attributes, name=f"{key}/{node.name}", outputs=outputs)


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


def _judge(product: ir.Node, found: np.ndarray, expected: np.ndarray, picture: str) -> None:
    """UserError where a slice of a site's result is further off than `allowed`."""
    site = product.name
    if found.shape != expected.shape:
        raise wrong(f"{site} gives {list(found.shape)}", f"ONNX Runtime's {list(expected.shape)}")
    off = (found.astype(np.float64) - expected) ** 2
    for axis, most in allowed(product, expected).items():
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


def allowed(product: ir.Node, expected: np.ndarray) -> dict[int, np.ndarray]:
    """Axis → the squared error that each of its slices may have, of a site's result [B, C, …] or [B, …, C].

    product: the bundle's node of the site.

    (`NORM`·‖x‖)², ‖x‖ of the slice or their mean where that is more, and what `TIES` + `SHARE`·N of the N codes do
    that a slice reads: one of input channel c moves the result by Δ·‖W[:, c]‖. Products of two activations have
    no W.
    """
    channel = 1 if product.op_type == "Conv" else expected.ndim - 1
    x, w = inputs_of(product)[:2]
    weight = giver(w, "DequantizeLinear")  # of attention's keys it is a Transpose
    energy, channels, reach = 0.0, 1, 1
    if weight is not None and not quantizer(w):
        step = array(quantizer(x)[-1].inputs[1])
        codes, scales = (array(value) for value in weight.inputs[:2])
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
