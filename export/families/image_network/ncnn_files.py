"""ncnn's two files as they are: NET.param, the graph in text, and NET.bin, its weights in the layers' order.

A weight of the .bin is led by a flag: half precision (padded to 4 bytes) or float32. Biases, PReLU's slopes and
constants are bare float32. Nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from passionsr_trt.engines.common.errors import UserError, printable

MAGIC = "7767517"
FLOAT32, HALF = 0, 0x01306B47
MOST_TEXT = 16 * 2**20  # bytes of a .param; x4plus, of 999 layers, has 0.1 MiB
ARRAY = -23300  # keys at or below it hold arrays: count,value,…
Number = int | float


@dataclass
class Layer:
    """A line of the .param, and what the .bin holds of it."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[int, Number | tuple[Number, ...]]
    weights: list[np.ndarray] = field(default_factory=list)

    def whole(self, key: int, default: int = 0) -> int:
        """A parameter that is a whole number; UserError where it is none."""
        value = self.numbers.get(key, default)
        if isinstance(value, tuple) or value != int(value):
            raise UserError(f"{self}: parameter {key} is {value}", "expected a whole number")
        return int(value)

    def __str__(self) -> str:
        return printable(f"{self.kind} {self.name}")[:120]


def partner(path: Path) -> Path:
    """The .bin beside a .param."""
    return path.with_suffix(".bin")


def read_graph(path: Path) -> list[Layer]:
    """The layers of a .param, every input made by one before it. Split is left out; its copies have one name."""
    none = f"{path}: no ncnn .param"
    if not path.is_file():
        raise UserError(f"{path}: missing", "expected ncnn's .param there")
    if (size := path.stat().st_size) > MOST_TEXT:
        raise UserError(
            f"{none} (of {size / 2**20:.0f} MiB)", f"expected at most {MOST_TEXT // 2**20} MiB of text"
        )
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{none} (binary)", "expected its text form") from None
    if len(lines) < 2 or lines[0].strip() != MAGIC:
        raise UserError(none, f"expected {MAGIC} as its first line")
    if lines[1].split()[:1] != [str(len(lines) - 2)]:
        raise UserError(
            f"{path}: {len(lines) - 2} layers", f"expected {printable(lines[1])[:40]} as its second line says"
        )
    layers, made, same = [], set[str](), dict[str, str]()
    for line in lines[2:]:
        layer = _layer(line, path)
        if missing := sorted(set(layer.inputs) - made):
            raise UserError(
                f"{path}: {layer} reads {printable(missing[0])[:80]}", "expected a layer before it to make it"
            )
        if layer.kind == "Split" and len(layer.inputs) != 1:
            raise UserError(f"{path}: {layer} reads {len(layer.inputs)} tensors", "expected one")
        if twice := made & set(layer.outputs):
            raise UserError(
                f"{path}: {layer} makes {printable(min(twice))[:80]} again", "expected every name once"
            )
        made |= set(layer.outputs)
        layer.inputs = tuple(same.get(name, name) for name in layer.inputs)
        if layer.kind == "Split":
            same |= dict.fromkeys(layer.outputs, layer.inputs[0])
        else:
            layers.append(layer)
    return layers


def _layer(line: str, path: Path) -> Layer:
    words = line.split()
    wrong = UserError(f"{path}: cannot be read: {printable(line)[:80]}", "expected ncnn's form of a layer")
    if len(words) < 4 or not all(re.fullmatch(r"\d{1,4}", word) for word in words[2:4]):
        raise wrong
    first, last = 4 + int(words[2]), 4 + int(words[2]) + int(words[3])
    if len(words) < last:
        raise wrong
    numbers: dict[int, Number | tuple[Number, ...]] = {}
    for word in words[last:]:
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"-?\d{1,6}", key):
            raise wrong
        try:
            values = tuple(_number(value) for value in text.split(","))
        except ValueError:
            raise wrong from None
        if int(key) <= ARRAY:
            if values[0] != len(values) - 1:
                raise wrong
            numbers[ARRAY - int(key)] = values[1:]
        elif len(values) == 1:
            numbers[int(key)] = values[0]
        else:
            raise wrong
    return Layer(words[0], words[1], tuple(words[4:first]), tuple(words[first:last]), numbers)


def _number(text: str) -> Number:
    """A whole number of at most 32 bits, or a finite float."""
    if re.fullmatch(r"-?\d{1,10}", text):
        return int(text)
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(text)
    return value


def read_weights(layers: list[Layer], path: Path) -> None:
    """Hand each layer what the .bin has for it; UserError where that is too little, too much or no number."""
    if not path.is_file():
        raise UserError(f"{path}: missing", "expected the weights there", "name it beside the .param")
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    at = 0

    def take(count: int, kind: str, layer: Layer) -> np.ndarray:
        nonlocal at
        size = max(count, 0) * np.dtype(kind).itemsize
        if count < 1 or at + size > len(data):
            raise UserError(
                f"{path}: ends within {layer}", f"expected {count} numbers at byte {at} of {len(data)}",
                "copy it again, or take the .bin that belongs to the .param",
            )  # fmt: skip
        found = np.frombuffer(data[at : at + size].tobytes(), kind)
        at += -(-size // 4) * 4
        return found

    def add(layer: Layer, values: np.ndarray) -> None:
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {layer} holds what is no number", "expected a trained network")
        layer.weights.append(values)

    for layer in layers:
        if layer.kind == "Convolution":
            (flag,) = take(1, "<u4", layer)
            if flag not in (FLOAT32, HALF):
                raise UserError(
                    f"{path}: weights of {layer} are stored by flag {flag:#010x}", "expected float32 or half"
                )
            add(layer, take(layer.whole(6), "<f2" if flag == HALF else "<f4", layer))
            if layer.whole(5):
                add(layer, take(layer.whole(0), "<f4", layer))
        elif layer.kind == "PReLU":
            add(layer, take(layer.whole(0), "<f4", layer))
        elif layer.kind == "MemoryData":
            sides = [max(layer.whole(key), 1) for key in (0, 1, 11, 2)]
            add(layer, take(int(np.prod(sides, dtype=object)), "<f4", layer))
    if at != len(data):
        raise UserError(
            f"{path}: {len(data) - at} bytes more than its layers hold", "expected none",
            "take the .bin that belongs to the .param",
        )  # fmt: skip
