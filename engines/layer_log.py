"""The layer list that TensorRT-RTX's builder prints at verbose level, one line a layer:

Name: N, LayerType: T, Inputs: [ { Name: …, Dimensions: [1,64,512,512], …, Datatype: Int8, … }, … ],
Constants: […], Outputs: […], TacticName: …, StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b]
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from passionsr_trt.engines.coverage import Layer

# signal, wait and shape bookkeeping launch no kernel
NOT_KERNELS = {"signal", "wait", "shape_call", "host_call"}
COMPUTE = {"correlation", "gemm", "convolution", "matmul"}
DATATYPE_BYTES = {
    "Float": 4.0,
    "Half": 2.0,
    "BFloat16": 2.0,
    "Int8": 1.0,
    "Int32": 4.0,
    "Int64": 8.0,
    "Bool": 1.0,
}
_HEAD = re.compile(r"Name: (?P<name>[^,]*), LayerType: (?P<kind>\w+), (?P<rest>.*)")
_SECTION = re.compile(
    r"(Inputs|Constants|Outputs): \[(.*?)\](?=, (?:Inputs|Constants|Outputs|TacticName|StreamId))"
)
_TENSOR = re.compile(r"\{ Name: .*?Dimensions: \[([\d,]*)\].*?Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def parse_layers(lines: Iterable[str]) -> tuple[list[Layer], Counter[str]]:
    """Kernels of the last layer list in a verbose log, and how many there are of each kind."""
    found: list[Layer] = []
    for line in lines:
        head = _HEAD.search(line)
        if head is None or head["kind"] in NOT_KERNELS:
            continue
        sections = {key: _TENSOR.findall(text) for key, text in _SECTION.findall(head["rest"])}
        inputs = sections.get("Inputs", [])
        moved = sum(_bytes(shape, kind) for tensors in sections.values() for shape, kind in tensors)
        int8 = head["kind"] in COMPUTE and any(kind == "Int8" for _shape, kind in inputs)
        names = tuple(_ORIGIN.findall(head["rest"]))
        found.append(Layer(head["name"], head["kind"], int8, names, int(moved)))
    kinds = Counter(f"{layer.kind} Int8" if layer.int8 else layer.kind for layer in found)
    return found, kinds


def _bytes(shape: str, datatype: str) -> float:
    dimensions = [int(size) for size in shape.split(",") if size]
    return math.prod(dimensions) * DATATYPE_BYTES.get(datatype, 4.0)
