"""Which structures in front of a quantizer does this version of OpenVINO compute wrongly, on this CPU?

    python benchmarks/wrong_kernels.py            # docs/quality.md's table
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/wrong_kernels.py

Every structure stands between what `FEEDS` gives and Q → DQ → a site of every kind in `SITES`. Random codes
within ±63 are exact on every CPU, so each error is one of the graph's. To be run again at every version that the
pins move to; tests/engines/test_wrong_kernels.py holds the builder to all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import openvino as ov
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino.compile import compile_content
from passionsr_trt.engines.openvino.passes.linears import LinearsAsConvolutions
from passionsr_trt.engines.openvino.passes.unsigned import SignedAsUnsignedCodes

CHANNELS, SIDE, OUTPUTS = 16, 8, 24
WRONG = 1e-2  # a code at a tie that falls the other way: 3e-3 at most here
FEEDS = ("picture", "convolution", "INT8 convolution")
SITES = ("1×1", "3×3", "3×3, stride 2", "2×2, two sides padded", "3×3, groups", "two of one port")
LINEAR = "linear"
# what is done in turn to a tensor [1, C, H, W]; `and read` ones leave another reader
STRUCTURES = (
    "nothing",
    "Concat",
    "Concat of itself",
    "Concat, Concat",
    "Concat, Mul",
    "Concat, Add",
    "Concat, Mul, Add",
    "Concat, Relu",
    "Concat, LeakyRelu",
    "Concat, PRelu",
    "Concat, SiLU",
    "Concat, Gelu",
    "Concat, Clip",
    "Concat, Residual",
    "Concat and read",
    "Concat, Mul and read",
    "Concat, Split",
    "Concat, Slice",
    "Concat, Pad",
    "Concat, Resize",
    "Concat, DepthToSpace",
    "Concat, Transpose",
    "Concat, Norm",
    "Add",
    "Mul",
    "Residual",
    "Residual and read",
    "Relu",
    "LeakyRelu",
    "SiLU",
    "Clip",
    "Split",
    "Slice",
    "Pad",
    "Pad, Mul",
    "Pad, Add",
    "Resize",
    "DepthToSpace",
    "Transpose",
    "Norm",
    "AveragePool",
    "Split, Concat",
    "DepthToSpace, Concat",
    "Resize, Concat",
    "Relu, Concat",
    "Mul, Concat",
    "Residual, Concat",
    "Tokens",
    "Tokens, Concat",
    "Tokens, LayerNorm",
    "Tokens, Linear and back",
)


@dataclass
class Sketch:
    """A graph under construction."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)  # what the feeds give
    channels: int = CHANNELS

    def node(self, kind: str, *inputs: str, results: int = 1, **attributes: Any) -> str:
        name = f"{kind}{len(self.nodes)}"
        outputs = [name, *(f"{name}_{index}" for index in range(1, results))]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name, **attributes))
        return name

    def constant(self, value: object) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def per_channel(self, low: float, high: float, *more: int) -> str:
        return self.constant(self.random.uniform(low, high, (self.channels, *more)).astype(np.float32))

    def codes(self, x: str) -> str:
        scale, zero = self.constant(np.float32(0.02)), self.constant(np.int8(0))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, scale, zero), scale, zero)

    def weight(self, shape: tuple[int, ...], axis: int = 0) -> str:
        codes = self.random.integers(-63, 64, shape).astype(np.int8)
        scales = self.random.uniform(5e-4, 1e-3, shape[axis]).astype(np.float32)
        inputs = [self.constant(value) for value in (codes, scales, np.zeros(shape[axis], np.int8))]
        return self.node("DequantizeLinear", *inputs, axis=axis)

    def source(self, feed: str) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = (1, CHANNELS, SIDE, SIDE)
        shape = (CHANNELS, CHANNELS, 3, 3)
        if feed == "convolution":
            weight = self.constant(self.random.normal(0, 0.1, shape).astype(np.float32))
            name = self.node("Conv", name, weight, kernel_shape=[3, 3], pads=[1] * 4)
        elif feed == "INT8 convolution":
            name = self.node("Conv", self.codes(name), self.weight(shape), kernel_shape=[3, 3], pads=[1] * 4)
        self.sources.add(name)
        return name

    def step(self, kind: str, x: str, feed: str) -> str:
        """`x` after one step of a structure; a Concat is of two sources where it is the first."""
        if kind == "nothing":
            return x
        if kind in ("Concat", "Concat of itself"):
            other = x
            if kind == "Concat":
                other = self.source(feed) if x in self.sources else self.node("Abs", x)
            self.channels *= 2
            return self.node("Concat", x, other, axis=2 if self.is_tokens else 1)
        if kind == "Residual":
            return self.node("Add", x, self.node("Conv", x, self.eye(), kernel_shape=[1, 1]))
        if kind in ("Mul", "Add"):
            return self.node(kind, x, self.per_channel(0.3, 1.5, 1, 1))
        if kind == "PRelu":
            return self.node(kind, x, self.per_channel(0.1, 0.4, 1, 1))
        if kind == "SiLU":
            return self.node("Mul", x, self.node("Sigmoid", x))
        if kind == "Clip":
            return self.node(kind, x, self.constant(np.float32(-0.64)), self.constant(np.float32(0.62)))
        if kind == "Split":
            self.channels //= 2
            return self.node(kind, x, results=2, axis=1, num_outputs=2)
        if kind == "Slice":
            return self.node(kind, x, *(self.constant(np.array(value)) for value in ([1, 1], [7, 7], [2, 3])))
        if kind == "Pad":
            pads = self.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
            return self.node(kind, x, pads, self.constant(np.float32(0)))
        if kind == "Resize":
            sides = self.constant(np.array([1, 1, 2, 2], np.float32))
            more: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return self.node(kind, x, "", sides, mode="nearest", **more)
        if kind == "DepthToSpace":
            self.channels //= 4
            return self.node(kind, x, blocksize=2, mode="CRD")
        if kind == "Transpose":
            return self.node(kind, x, perm=[0, 1, 3, 2])
        if kind == "Norm":
            groups = self.constant(np.array([0, 4, -1])), self.constant(np.array([0, self.channels, SIDE, SIDE]))
            ones, zeros = self.constant(np.ones(4, np.float32)), self.constant(np.zeros(4, np.float32))
            x = self.node("InstanceNormalization", self.node("Reshape", x, groups[0]), ones, zeros)
            return self.node("Mul", self.node("Reshape", x, groups[1]), self.per_channel(0.5, 2, 1, 1))
        if kind == "AveragePool":
            return self.node(kind, x, kernel_shape=[2, 2], strides=[2, 2])
        if kind == "Tokens":
            flat = self.constant(np.array([0, 0, -1]))
            return self.node("Transpose", self.node("Reshape", x, flat), perm=[0, 2, 1])
        if kind == "LayerNorm":
            return self.node("LayerNormalization", x, self.per_channel(0.5, 2), self.per_channel(-0.2, 0.2))
        if kind == "Linear and back":
            y = self.node("MatMul", self.codes(x), self.weight((self.channels, self.channels), 1))
            sides = self.constant(np.array([1, self.channels, SIDE, SIDE]))
            return self.node("Reshape", self.node("Transpose", y, perm=[0, 2, 1]), sides)
        extra: dict[str, dict[str, Any]] = {"LeakyRelu": {"alpha": 0.2}}
        return self.node(kind, x, **extra.get(kind, {}))

    @property
    def is_tokens(self) -> bool:
        return any(list(entry.ints) == [0, 2, 1] for node in self.nodes for entry in node.attribute)

    def eye(self) -> str:
        return self.constant(np.eye(self.channels, dtype=np.float32)[:, :, None, None])

    def site(self, kind: str, x: str) -> str:
        x = self.codes(x)
        if kind == LINEAR:
            return self.node("MatMul", x, self.weight((self.channels, OUTPUTS), 1))
        size = int(kind[0]) if kind[0].isdigit() else 3
        group = 4 if "groups" in kind else 1
        more = {"strides": [2, 2]} if "stride" in kind else {"group": group} if group > 1 else {}
        pads = [0, 0, 1, 1] if size == 2 else [size // 2] * 4
        weight = self.weight((OUTPUTS, self.channels // group, size, size))
        y = self.node("Conv", x, weight, kernel_shape=[size] * 2, pads=pads, **more)
        if kind == "two of one port":
            other = self.node("Conv", x, self.weight((OUTPUTS, self.channels, 1, 1)), kernel_shape=[1, 1])
            return self.node("Add", y, other)
        return y


def graph(structure: str, feed: str, site: str) -> onnx.ModelProto:
    """`feed` → `structure` → Q → DQ → `site`, int8 codes as bundles have them."""
    sketch = Sketch()
    x = sketch.source(feed)
    steps, read = structure.removesuffix(" and read"), structure.endswith(" and read")
    for step in steps.split(", "):
        x = sketch.step(step, x, feed)
    outputs = [sketch.site(site, x)]
    if read:
        outputs.append(sketch.node("Tanh", x))
    kind = TensorProto.FLOAT
    body = helper.make_graph(
        sketch.nodes,
        "structure",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in sketch.inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in sketch.constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def error(model: onnx.ModelProto) -> float:
    """Of OpenVINO to ONNX Runtime, relative, of the site's result."""
    random = np.random.default_rng(1)
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    feed = {name: random.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}
    expected = reference_session(model, threads=1).run(None, feed)[0]
    found = compile_content(model.SerializeToString())(feed)[0]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def as_built(model: onnx.ModelProto, convolutions: bool) -> onnx.ModelProto:
    """As the builder rewrites it; convolutions: for a CPU whose linears are faster so."""
    graph = ir.from_proto(model)
    SignedAsUnsignedCodes()(graph)
    if convolutions:
        LinearsAsConvolutions()(graph)
    return ir.to_proto(graph)


def cases(structure: str) -> Iterator[tuple[str, str]]:
    """(feed, site) of every graph of a structure."""
    tokens = structure.startswith("Tokens") and not structure.endswith("back")
    yield from product(FEEDS, (LINEAR,) if tokens else SITES)


def main() -> int:
    print(
        f"OpenVINO {ov.__version__}, worst relative error of {len(FEEDS)} feeds and {len(SITES)} kinds of sites\n"
    )
    print("| in front of Q | int8 codes as exported | as built |\n| --- | --- | --- |")
    bad = 0
    for structure in STRUCTURES:
        models = [graph(structure, feed, site) for feed, site in cases(structure)]
        plain = max(map(error, models))
        built = max(error(as_built(model, convolutions)) for model in models for convolutions in (False, True))
        bad += built > WRONG
        cells = (f"**{value:.0e}**" if value > WRONG else f"{value:.0e}" for value in (plain, built))
        print(f"| {structure} | {' | '.join(cells)} |", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
