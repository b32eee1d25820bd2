"""ncnn's graph of a Compact, ESRGAN or SPAN network → the network's weights in PyTorch's names.

The layers are taken off the graph in the order in which the architecture runs. The first one that does not fit
refuses the network; nothing may be left over.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isclose, isqrt
from pathlib import Path

import numpy as np
import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.image_network.ncnn_files import Layer, Number, read_graph, read_weights
from torch import Tensor

ADD, SUBTRACT, MULTIPLY = 0, 1, 2
NEAREST, LEAKY = 1, 2
SHAPES = (30, 31)  # hints of ncnn's optimizer, without effect
SPAN_MEAN, SPAN_RANGE = (0.4488, 0.4371, 0.404), 255.0  # of spandrel's module, which weights do not tell
Convolutions = dict[str, Layer]
Expected = dict[int, Number | tuple[Number, ...]]


class Graph:
    """Layers not taken yet. Tensors go by the names that the file gives them."""

    def __init__(self, path: Path, layers: list[Layer], architecture: str) -> None:
        self.path, self.architecture = path, architecture
        self.left = {id(layer): layer for layer in layers}
        self.readers: dict[str, list[Layer]] = {}
        for layer in layers:
            for name in dict.fromkeys(layer.inputs):
                self.readers.setdefault(name, []).append(layer)
        self.channels: dict[str, int] = {}
        self.convolutions: Convolutions = {}

    def refuse(self, layer: Layer, expected: str) -> UserError:
        return UserError(f"{self.path}: {layer} does not fit {self.architecture}", f"expected {expected}")

    def find(self, kind: str, inputs: tuple[str, ...], turned: bool = False) -> Layer | None:
        """The layer of a kind that reads just these; turned: in any order."""
        ways = (inputs, inputs[::-1]) if turned else (inputs,)
        for layer in self.readers.get(inputs[0], ()):
            if id(layer) in self.left and layer.kind == kind and layer.inputs in ways and len(layer.outputs) == 1:
                return layer
        return None

    def take(self, kind: str, inputs: tuple[str, ...], expected: Expected, turned: bool = False) -> Layer:
        """A layer whose parameters are the expected ones, the others 0."""
        found = self.find(kind, inputs, turned)
        if found is None:
            others = (layer for layer in self.readers.get(inputs[0], ()) if id(layer) in self.left)
            other = next(others, None)
            if other is None:
                raise UserError(
                    f"{self.path}: nothing reads {inputs[0][:80]}",
                    f"expected {kind} there, as in {self.architecture}",
                )
            raise self.refuse(other, f"{kind} of {', '.join(inputs)[:120]}")
        for key in {*found.numbers, *expected} - {*SHAPES}:
            value, wanted = found.numbers.get(key, 0), expected.get(key, 0)
            if not _same(value, wanted):
                raise self.refuse(found, f"parameter {key} to be {wanted}, not {value}")
        del self.left[id(found)]
        return found

    def convolution(self, x: str, name: str, side: int = 3, slope: float | None = None) -> str:
        """Stride 1, zeros around, with a LeakyReLU of `slope` in it or behind it."""
        found = self.find("Convolution", (x,))
        expected: Expected = {
            1: side,
            11: side,
            2: 1,
            12: 1,
            3: 1,
            13: 1,
            **dict.fromkeys((4, 14, 15, 16), side // 2),
        }
        if found is not None:
            found.numbers = {2: 1, 3: 1, **found.numbers}
            for key, same in {11: 1, 12: 2, 13: 3, 14: 4, 15: 4, 16: 4}.items():  # the other axis, the other edges
                found.numbers.setdefault(key, found.numbers.get(same, 0))
            rows, size = found.whole(0), found.whole(6)
            inputs = self.channels.setdefault(x, size // max(rows * side * side, 1))
            expected |= {0: rows, 5: found.whole(5), 6: rows * inputs * side * side}
            if slope is not None and found.whole(9):
                expected |= {9: LEAKY, 10: (slope,)}
                slope = None
        layer = self.take("Convolution", (x,), expected)
        if layer.whole(0) < 1 or self.channels[x] < 1:
            raise self.refuse(layer, "weights")
        self.convolutions[name] = layer
        self.channels[layer.outputs[0]] = layer.whole(0)
        if slope is None:
            return layer.outputs[0]
        return self.keep("ReLU", layer.outputs[0], {0: slope})

    def keep(self, kind: str, x: str, expected: Expected) -> str:
        """A layer that leaves the number of channels as it is."""
        output = self.take(kind, (x,), expected).outputs[0]
        self.channels[output] = self.channels[x]
        return output

    def scaled(self, x: str, operation: int, number: float) -> str:
        return self.keep("BinaryOp", x, {0: operation, 1: 1, 2: number})

    def both(self, operation: int, x: str, y: str) -> str:
        """The sum or the product of two tensors."""
        output = self.take("BinaryOp", (x, y), {0: operation}, turned=True).outputs[0]
        self.channels[output] = self.channels[x]
        return output

    def concat(self, *inputs: str) -> str:
        output = self.take("Concat", inputs, {}).outputs[0]
        self.channels[output] = sum(self.channels[name] for name in inputs)
        return output

    def shuffle(self, x: str) -> tuple[str, int]:
        """PixelShuffle, and its scale: to as many colours as come in."""
        scale = isqrt(self.channels[x] // 3)
        return self.take("PixelShuffle", (x,), {0: scale}).outputs[0], scale

    def enlarged(self, x: str, scale: int) -> str:
        return self.keep("Interp", x, {0: NEAREST, 1: scale, 2: scale})

    def count(self, kind: str) -> int:
        return sum(layer.kind == kind for layer in self.left.values())


def _same(value: Number | tuple[Number, ...], wanted: Number | tuple[Number, ...]) -> bool:
    values, others = (x if isinstance(x, tuple) else (x,) for x in (value, wanted))
    return len(values) == len(others) and all(
        isclose(a, b, abs_tol=1e-6) for a, b in zip(values, others, strict=True)
    )


def compact(graph: Graph, data: str) -> Callable[[], dict[str, Tensor]]:
    """Convolutions with PReLUs between them, PixelShuffle, and the picture enlarged to its nearest pixels."""
    count = graph.count("PReLU")
    x, slopes = graph.convolution(data, "body.0"), {}
    for index in range(count):
        channels = graph.channels[x]
        layer = graph.take("PReLU", (x,), {0: channels})
        slopes[f"body.{2 * index + 1}.weight"] = layer
        graph.channels[layer.outputs[0]] = channels
        x = graph.convolution(layer.outputs[0], f"body.{2 * index + 2}")
    x, scale = graph.shuffle(x)
    graph.channels[x] = graph.channels[data]
    graph.both(ADD, x, graph.enlarged(data, scale))
    return lambda: (
        plain(graph.convolutions) | {name: torch.from_numpy(layer.weights[0]) for name, layer in slopes.items()}
    )


def esrgan(graph: Graph, data: str) -> Callable[[], dict[str, Tensor]]:
    """RRDB: dense blocks, three a block, and enlargements by 2."""
    blocks, doublings = graph.count("Concat") // 12, graph.count("Interp")

    def added(x: str, before: str) -> str:
        """0.2·x + before, as one layer or as two."""
        for inputs, weights in (((x, before), (0.2, 1.0)), ((before, x), (1.0, 0.2))):
            if graph.find("Eltwise", inputs):
                output = graph.take("Eltwise", inputs, {0: 1, 1: weights}).outputs[0]
                graph.channels[output] = graph.channels[x]
                return output
        return graph.both(ADD, graph.scaled(x, MULTIPLY, 0.2), before)

    x = first = graph.convolution(data, "conv_first")
    for block in range(blocks):
        into = x
        for dense in (1, 2, 3):
            grown = [x]
            for index in (1, 2, 3, 4):
                joined = graph.concat(*grown) if index > 1 else x
                grown.append(graph.convolution(joined, f"body.{block}.rdb{dense}.conv{index}", slope=0.2))
            x = added(graph.convolution(graph.concat(*grown), f"body.{block}.rdb{dense}.conv5"), x)
        x = added(x, into)
    x = graph.both(ADD, first, graph.convolution(x, "conv_body"))
    for index in range(doublings):
        x = graph.convolution(graph.enlarged(x, 2), f"conv_up{index + 1}", slope=0.2)
    graph.convolution(graph.convolution(x, "conv_hr", slope=0.2), "conv_last")
    return lambda: plain(graph.convolutions)


def span(graph: Graph, data: str) -> Callable[[], dict[str, Tensor]]:
    """Its three convolutions and a shortcut stand as the one that they are after training."""
    x, mean, factor = data, None, 1.0
    constant = next((layer for layer in graph.left.values() if layer.kind == "MemoryData"), None)
    if constant is not None and len(constant.outputs) == 1:
        mean = constant
        shape: Expected = {key: value for key, value in constant.numbers.items() if value == 1 and key < 2}
        del graph.left[id(constant)]
        if not all(
            _same(constant.numbers.get(key, 0), {**shape, 2: 3}.get(key, 0)) for key in (*constant.numbers, 2)
        ):
            raise graph.refuse(constant, "three colours")
        x = graph.take("BinaryOp", (x, constant.outputs[0]), {0: SUBTRACT}).outputs[0]
    scaled = graph.find("BinaryOp", (x,))
    if scaled is not None and isinstance(number := scaled.numbers.get(2), (int, float)):
        factor = float(number)
        x = graph.take("BinaryOp", (x,), {0: MULTIPLY, 1: 1, 2: number}).outputs[0]
    x = first = graph.convolution(x, "conv_1")
    kept = []
    for block in range(1, 7):
        into = x
        acted = graph.keep("Swish", graph.convolution(x, f"block_{block}.c1_r"), {})
        x = graph.keep("Swish", graph.convolution(acted, f"block_{block}.c2_r"), {})
        x = graph.convolution(x, f"block_{block}.c3_r")
        attention = graph.scaled(graph.keep("Sigmoid", x, {}), SUBTRACT, 0.5)
        x = graph.both(MULTIPLY, graph.both(ADD, x, into), attention)
        kept.append((x, acted))
    joined = graph.concat(first, graph.convolution(x, "conv_2"), kept[0][0], kept[-1][1])
    graph.shuffle(graph.convolution(graph.convolution(joined, "conv_cat", side=1), "upsampler.0"))

    def weights() -> dict[str, Tensor]:
        if mean is not None and not np.allclose(mean.weights[0], SPAN_MEAN, atol=1e-6):
            found = ", ".join(f"{value:.4g}" for value in mean.weights[0])
            raise graph.refuse(mean, f"colours centred at {SPAN_MEAN}, as spandrel's module does, not at {found}")
        state = plain(graph.convolutions)
        state["conv_1.weight"] *= factor / (SPAN_RANGE if mean is not None else 1.0)
        result = {} if mean is not None else {"no_norm": torch.zeros(1)}
        for name in graph.convolutions:
            single = {key: state.pop(f"{name}.{key}") for key in ("weight", "bias")}
            apart = name.startswith(("block_", "conv_1", "conv_2"))
            result |= in_branches(name, **single) if apart else {f"{name}.{key}": x for key, x in single.items()}
        return result

    return weights


def plain(convolutions: Convolutions) -> dict[str, Tensor]:
    """`NAME.weight` and `NAME.bias` of every convolution."""
    state: dict[str, Tensor] = {}
    for name, layer in convolutions.items():
        rows, side = layer.whole(0), layer.whole(1)
        weight = layer.weights[0].reshape(rows, -1, side, side)
        bias = layer.weights[1] if len(layer.weights) > 1 else np.zeros(rows, np.float32)
        state |= {f"{name}.weight": torch.from_numpy(weight), f"{name}.bias": torch.from_numpy(bias)}
    return state


def in_branches(name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """A 3×3 convolution as what SPAN trains in its place: 1×1, 3×3, 1×1 and a shortcut, which merge into it."""
    rows, columns = weight.shape[:2]
    inner = torch.zeros(2 * rows, 2 * columns, 3, 3)
    inner[:rows, :columns] = weight
    return {
        f"{name}.sk.weight": torch.zeros(rows, columns, 1, 1),
        f"{name}.sk.bias": torch.zeros(rows),
        f"{name}.conv.0.weight": torch.eye(2 * columns, columns)[..., None, None].clone(),
        f"{name}.conv.0.bias": torch.zeros(2 * columns),
        f"{name}.conv.1.weight": inner,
        f"{name}.conv.1.bias": torch.cat([bias, torch.zeros(rows)]),
        f"{name}.conv.2.weight": torch.eye(rows, 2 * rows)[..., None, None].clone(),
        f"{name}.conv.2.bias": torch.zeros(rows),
        f"{name}.eval_conv.weight": weight,
        f"{name}.eval_conv.bias": bias,
    }


# by the first kind of layer that only it has
ARCHITECTURES = {"PReLU": ("Compact", compact), "Swish": ("SPAN", span), "Concat": ("ESRGAN", esrgan)}
KINDS = {
    *("Input", "MemoryData", "Convolution", "PReLU", "ReLU", "Swish", "Sigmoid"),
    *("BinaryOp", "Eltwise", "Concat", "PixelShuffle", "Interp"),
}


def read_ncnn(param: Path, weights: Path) -> dict[str, Tensor]:
    """A network's weights out of ncnn's two files; UserError names the first layer that fits no architecture."""
    layers = read_graph(param)
    known = ", ".join(sorted(name for name, _take in ARCHITECTURES.values()))
    strange = next((layer for layer in layers if layer.kind not in KINDS), None)
    if strange is not None:
        raise UserError(f"{param}: {strange} is of no architecture that is read", f"expected {known}")
    kinds = {layer.kind for layer in layers}
    name, take = next((entry for kind, entry in ARCHITECTURES.items() if kind in kinds), ("", None))
    if take is None:
        raise UserError(f"{param}: {len(layers)} layers of no architecture that is read", f"expected {known}")
    graph = Graph(param, layers, name)
    inputs = [layer for layer in layers if layer.kind == "Input"]
    if len(inputs) != 1 or len(inputs[0].outputs) != 1:
        raise UserError(f"{param}: {len(inputs)} inputs", "expected one, the picture")
    del graph.left[id(inputs[0])]
    state = take(graph, inputs[0].outputs[0])
    if graph.left:
        raise graph.refuse(next(iter(graph.left.values())), "the network's end before it")
    read_weights(layers, weights)
    return state()
