"""Triton's config.pbtxt from a part's wiring: a protobuf in text form, of which little is needed here.

Shapes are whole, with the batch as their first dimension (`max_batch_size: 0`): what is put together is decided by
our tiling, not by Triton's batcher.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from passionsr_trt.engines.bundle.wiring import PartInfo, Size, TensorInfo


@dataclass(frozen=True)
class Port:
    """An input or output. kind: `FP32` or `UINT8`; -1 in shape: any."""

    name: str
    kind: str
    shape: tuple[int, ...]

    def text(self) -> str:
        return f"  {{ name: {json.dumps(self.name)} data_type: TYPE_{self.kind} dims: {list(self.shape)} }}"


@dataclass(frozen=True)
class ModelConfig:
    """One model. backend: `openvino`, `tensorrt` or `python`; device: `CPU` or `GPU`; file: of version 1."""

    name: str
    backend: str
    file: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    device: str
    instances: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The config.pbtxt."""
        lines = [
            f"name: {json.dumps(self.name)}",
            f"backend: {json.dumps(self.backend)}",
            f"default_model_filename: {json.dumps(self.file)}",
            "max_batch_size: 0",
        ]
        for kind, ports in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"{kind} [", ",\n".join(port.text() for port in ports), "]"]
        lines.append(f"instance_group [ {{ count: {self.instances} kind: KIND_{self.device} }} ]")
        for key, value in self.parameters.items():
            lines.append(f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value)} }} }}")
        return "\n".join(lines) + "\n"


def part_ports(part: PartInfo, size: Size | None) -> tuple[list[Port], list[Port]]:
    """A part's inputs and its output; size: of a fixed graph with a batch of 1, None: any of both."""

    def port(tensor: TensorInfo) -> Port:
        if size is not None:
            return Port(tensor.name, "FP32", tensor.at(size))
        sides = (-1, -1) if tensor.stride else ()
        return Port(tensor.name, "FP32", (-1, tensor.channels, *sides))

    return [port(tensor) for tensor in part.inputs], [port(part.output)]


PICTURE_IN = Port("image", "UINT8", (-1, -1, 3))
PICTURE_OUT = Port("picture", "UINT8", (-1, -1, 3))
