"""The list of an engine's layers: TensorRT's engine inspector gives JSON, in the dialects of 10.x and 11.x, and
TensorRT-RTX's builder prints lines at verbose level.

- a tensor's type: 10.x has `Format/Datatype` ("Half", "Row major linear FP16 format", "Thirty-two wide channel
  vectorized row major Int8 format"), 11.x has `DataType` beside `Format`;
- the engine's own tensors: 10.x lists names under `Bindings`, 11.x objects under `I/O Tensors`.

(NVIDIA, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".) A layer's origins are in `Metadata`:
`[ONNX Layer: a]`, several parted by nothing or a control character.

A line of RTX's, one per layer, where a side that is not fixed is -1:

Name: N, LayerType: T, Inputs: [ { Name: …, Dimensions: [1,64,512,512], …, Datatype: Int8, … }, … ],
Constants: […], Outputs: […], TacticName: …, StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b]
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from passionsr_trt.engines.bundle.formats import FP8, INT8
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.coverage import Layer, count_kinds
from passionsr_trt.engines.graph.kernels import TensorUse, kernel, made_of_codes
from passionsr_trt.engines.graph.names import origins

# signal, wait and shape bookkeeping launch no kernel
NOT_KERNELS = {"signal", "wait", "shapehostcall", "shape_call", "host_call", "noop", "constant"}
NOT_KERNELS_OF_RTX = {"signal", "wait", "shape_call", "host_call"}
_HEAD = re.compile(r"Name: (?P<name>[^,]*), LayerType: (?P<kind>\w+), (?P<rest>.*)")
_SECTION = re.compile(
    r"(Inputs|Constants|Outputs): \[(.*?)\](?=, (?:Inputs|Constants|Outputs|TacticName|StreamId))"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")
_TYPES = (
    (INT8.layer_type, ("int8",)),
    (FP8.layer_type, ("fp8", "float8", "e4m3")),
    ("Half", ("fp16", "half")),
    ("BFloat16", ("bf16", "bfloat16")),
    ("Float", ("fp32", "float")),
    ("Int32", ("int32",)),
    ("Int64", ("int64",)),
    ("Bool", ("bool",)),
)


def parse_inspector(text: str) -> tuple[list[Layer], Counter[str]]:
    """Kernels of an engine built with detailed profiling verbosity, and how many there are of each kind."""
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise UserError("the engine inspector gave no layer list", "expected JSON with `Layers`") from None
    if any(isinstance(layer, str) for layer in entries):
        raise UserError(
            "the engine tells only its layers' names", "expected one built with detailed profiling verbosity"
        )
    layers, made = list[Layer](), dict[str, str]()
    for entry in entries:
        if str(entry.get("LayerType", "")).lower() not in NOT_KERNELS:
            layers.append(_layer(entry, made))
    return layers, count_kinds(layers)


def _layer(entry: dict[str, Any], made: dict[str, str]) -> Layer:
    """made: weights that layers before make of codes; this one's are added."""
    inputs, outputs, constants = (
        [_tensor(tensor) for tensor in entry.get(key) or []] for key in ("Inputs", "Outputs", "Constants")
    )
    weights = entry.get("Weights")
    if isinstance(weights, dict) and not constants and outputs:
        constants = [_weight(entry, weights)]
    sources = origins(entry.get("Metadata") or "")
    layer = kernel(entry["Name"], entry.get("LayerType", ""), sources, inputs, constants, outputs, made)
    made |= made_of_codes(inputs, constants, outputs)
    return layer


def _tensor(entry: dict[str, Any]) -> TensorUse:
    stated = next(
        (entry[key] for key in ("DataType", "Datatype", "Format/Datatype", "Format") if entry.get(key)), ""
    )
    words = stated.lower()
    dtype = next((name for name, marks in _TYPES if any(mark in words for mark in marks)), stated)
    return TensorUse(tuple(entry.get("Dimensions") or ()), dtype, str(entry.get("Name") or ""))


def _weight(entry: dict[str, Any], weights: dict[str, Any]) -> TensorUse:
    """`Weights`: {Type, Count}, with a convolution's `OutMaps` and `Kernel`: [O, I, kh, kw], else flat."""
    dtype = str(weights.get("Type", "Float"))
    maps, window = entry.get("OutMaps"), entry.get("Kernel")
    count = int(weights.get("Count", 0))
    if maps and window and len(window) == 2:
        return TensorUse((maps, count // (maps * window[0] * window[1]), *window), dtype)
    return TensorUse((count,), dtype)


def parse_layers(lines: Iterable[str]) -> tuple[list[Layer], Counter[str]]:
    """Kernels of the last layer list in a verbose log, and how many there are of each kind."""
    layers, made = list[Layer](), dict[str, str]()
    for line in lines:
        head = _HEAD.search(line)
        if head is None or head["kind"] in NOT_KERNELS_OF_RTX:
            continue
        sections = dict(_SECTION.findall(head["rest"]))
        inputs, constants, outputs = (
            _logged_tensors(sections.get(key, "")) for key in ("Inputs", "Constants", "Outputs")
        )
        sources = origins(head["rest"])
        layers.append(kernel(head["name"], head["kind"], sources, inputs, constants, outputs, made))
        made |= made_of_codes(inputs, constants, outputs)
    return layers, count_kinds(layers)


def _logged_tensors(text: str) -> list[TensorUse]:
    """Each once: a kernel that uses a tensor several times (PReLU: x, max(x, 0)) lists it as often, and reads it
    once. In another shape, and without a name, it is another one.
    """
    found = {
        (name or number, shape): TensorUse(tuple(map(int, filter(None, shape.split(",")))), dtype, name)
        for number, (name, shape, dtype) in enumerate(_TENSOR.findall(text))
    }
    return list(found.values())
