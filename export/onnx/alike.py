"""Steps of a sampler whose graphs differ in constants alone: one is traced, the others are that with their own.

1. Two twins have one form where their modules, settings, and tensors' names, shapes and types are the same.
2. A constant is a tensor's where it bears its name, or holds its content and no other tensor does: the exporter
   unsqueezes norms' weights. It is replaced.
3. A tensor without such a constant must be the same in both, or the part is traced anew.
4. Nodes and edges that bear the part's and its tensors' names get the new ones.

The proof that every graph has to pass (bundle.py) comes after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, numpy_helper
from passionsr_trt.export.model.part import Part
from torch import Tensor, nn

PLAIN = (bool, int, float, str, torch.dtype)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Traced:
    """A part's graph as it was written. form: of its twin; constants: of the graph, by name the tensors whose they
    are; folded: tensors that have none, and content: the SHA-256 of these."""

    path: Path
    part: Part
    form: str
    constants: Mapping[str, str]
    folded: tuple[str, ...]
    content: str

    @classmethod
    def of(cls, part: Part, twin: nn.Module, model: onnx.ModelProto, path: Path) -> Traced:
        """model: of `path`, its weights beside it."""
        tensors, found, others = tensors_of(twin), dict[str, str](), list[onnx.TensorProto]()
        for constant in model.graph.initializer:
            named = tensors.get(constant.name)
            if named is not None and named.shape == tuple(constant.dims):
                found[constant.name] = constant.name
            elif constant.data_type in FLOATS:
                others.append(constant)
        known = {place_of(tensors[name]) for name in found.values()}
        contents: dict[bytes, dict[int, str]] = {}
        for name, tensor in tensors.items():
            if place_of(tensor) not in known:
                contents.setdefault(bytes_of(tensor), {})[place_of(tensor)] = name
        for constant in others:
            copied = TensorProto()
            copied.CopyFrom(constant)  # reading a weight from beside the graph changes it
            same = contents.get(numpy_helper.to_array(copied, str(path.parent)).tobytes(), {})
            if len(same) == 1:
                found[constant.name] = next(iter(same.values()))
        known = {place_of(tensors[name]) for name in found.values()}
        folded = tuple(sorted(name for name, tensor in tensors.items() if place_of(tensor) not in known))
        return cls(path, part, form_of(twin), found, folded, content_of(tensors, folded))

    def fits(self, twin: nn.Module) -> bool:
        """Is the twin's graph this one but for constants? Rules 1 and 3."""
        return form_of(twin) == self.form and content_of(tensors_of(twin), self.folded) == self.content

    def with_constants(self, part: Part, twin: nn.Module) -> onnx.ModelProto:
        """The graph of another part whose twin fits. Rules 2 and 4."""
        model, tensors = onnx.load(str(self.path)), tensors_of(twin)
        for constant in model.graph.initializer:
            if constant.name in self.constants:
                constant.raw_data = bytes_of(tensors[self.constants[constant.name]])
        before, after = (*self.part.inputs, self.part.output), (*part.inputs, part.output)
        names = {old.name: new.name for old, new in zip(before, after, strict=True)}
        renamed(model.graph, names, self.part.name, part.name)
        return model


def form_of(twin: nn.Module) -> str:
    """SHA-256 of a twin's modules, their plain settings, and its tensors' names, shapes, types and twins."""
    lines, first = [], dict[int, str]()
    for path, module in twin.named_modules():
        settings = {name: value for name, value in vars(module).items() if name[0] != "_" and is_plain(value)}
        lines.append(f"{path} {type(module).__qualname__} {sorted(settings.items(), key=lambda item: item[0])}")
    for name, tensor in tensors_of(twin).items():
        lines.append(f"{name} {tuple(tensor.shape)} {tensor.dtype} {first.setdefault(place_of(tensor), name)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_plain(value: object) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(is_plain, value)))


def tensors_of(twin: nn.Module) -> dict[str, Tensor]:
    """Name → a twin's tensor, under each name that it has; without weights that codes stand in for."""
    named = (*twin.named_parameters(remove_duplicate=False), *twin.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in named if tensor.device.type != "meta"}


def place_of(tensor: Tensor) -> int:
    """Where a tensor lies: some have two names, of two views."""
    return tensor.data_ptr()


def bytes_of(tensor: Tensor) -> bytes:
    """As an ONNX initializer holds them."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def content_of(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> str:
    """SHA-256 of some tensors, whose forms are known."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()


def renamed(graph: onnx.GraphProto, names: Mapping[str, str], old: str, new: str) -> None:
    """Edges by `names`; nodes `old.…` become `new.…`."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        if node.name.startswith(f"{old}."):
            node.name = f"{new}{node.name.removeprefix(old)}"
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
