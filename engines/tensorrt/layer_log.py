"""The layer list that TensorRT-RTX's builder prints at verbose level, one line a layer:

Name: N, LayerType: T, Inputs: [ { Name: …, Dimensions: [1,64,512,512], …, Datatype: Int8, … }, … ],
Constants: […], Outputs: […], TacticName: …, StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b]

A side that is not fixed is -1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from passionsr_trt.engines.graph.coverage import Layer, count_kinds
from passionsr_trt.engines.graph.kernels import TensorUse, kernel
from passionsr_trt.engines.graph.names import origins

# signal, wait and shape bookkeeping launch no kernel
NOT_KERNELS = {"signal", "wait", "shape_call", "host_call"}
_HEAD = re.compile(r"Name: (?P<name>[^,]*), LayerType: (?P<kind>\w+), (?P<rest>.*)")
_SECTION = re.compile(
    r"(Inputs|Constants|Outputs): \[(.*?)\](?=, (?:Inputs|Constants|Outputs|TacticName|StreamId))"
)
_TENSOR = re.compile(r"\{ Name: .*?Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")


def parse_layers(lines: Iterable[str]) -> tuple[list[Layer], Counter[str]]:
    """Kernels of the last layer list in a verbose log, and how many there are of each kind."""
    found: list[Layer] = []
    for line in lines:
        head = _HEAD.search(line)
        if head is None or head["kind"] in NOT_KERNELS:
            continue
        sections = dict(_SECTION.findall(head["rest"]))
        tensors = [_tensors(sections.get(key, "")) for key in ("Inputs", "Constants", "Outputs")]
        found.append(kernel(head["name"], head["kind"], origins(head["rest"]), *tensors))
    return found, count_kinds(found)


def _tensors(text: str) -> list[TensorUse]:
    return [
        TensorUse(tuple(map(int, filter(None, shape.split(",")))), dtype) for shape, dtype in _TENSOR.findall(text)
    ]
