"""Graphs that parse and have the right digest, and are not the part's: foreign, broken, with weights elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from tests.hostile.bench import rewrite
from tests.hostile.manifests import read, rehash, write

Change = Callable[[Path], None]
Edit = Callable[[onnx.ModelProto], None]


def changes() -> dict[str, tuple[Change, bool | None]]:
    """accept: None where a graph may be run, since nothing tells that it is another."""
    found: dict[str, tuple[Change, bool | None]] = {}
    for label, (edit, accept) in EDITS.items():
        found[f"graph {label}"] = (partial(_edited, edit), accept)
    for first, second in (("unet", "vae_decoder"), ("vae_encoder", "unet"), ("vae_encoder", "vae_decoder")):
        found[f"graph {first} and {second} swapped"] = (partial(_swapped, first, second), False)
    for label, (location, listed, accept) in OUTSIDE.items():
        found[f"weights {label}"] = (partial(_outside, location, listed, {}), accept)
    for label, more in {
        "offset beyond": {"offset": "99999999"}, "length beyond": {"length": "99999999"},
        "offset negative": {"offset": "-8"}, "offset text": {"offset": "x"}, "length zero": {"length": "0"},
        "offset huge": {"offset": str(2**70)},
    }.items():  # fmt: skip
        whole = label == "length zero"  # ONNX reads all that there is
        found[f"weights {label}"] = (partial(_outside, "unet.onnx.data", True, more), None if whole else False)
    return found


def _edited(edit: Edit, folder: Path) -> None:
    model = onnx.load(str(folder / "unet.onnx"))
    edit(model)
    rewrite(folder / "unet.onnx", model.SerializeToString())
    rehash(folder)


def _swapped(first: str, second: str, folder: Path) -> None:
    (folder / f"{first}.onnx").rename(folder / "aside")
    (folder / f"{second}.onnx").rename(folder / f"{first}.onnx")
    (folder / "aside").rename(folder / f"{second}.onnx")
    rehash(folder)


def _values(model: onnx.ModelProto, value: float) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 1 and tensor.dims[0] > 8:
            array = np.full(tuple(tensor.dims), value, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _constant(model: onnx.ModelProto) -> None:
    """A graph that gives its input back: of the right names and shapes, of no site."""
    node = helper.make_node("Identity", [model.graph.input[0].name], [model.graph.output[0].name])
    del model.graph.node[:]
    model.graph.node.append(node)


def _channels(model: onnx.ModelProto, which: str, channels: int) -> None:
    (value,) = getattr(model.graph, which)
    value.type.tensor_type.shape.dim[1].dim_value = channels


EDITS: dict[str, tuple[Edit, bool | None]] = {
    "without nodes": (lambda model: model.graph.ClearField("node"), False),
    "without inputs": (lambda model: model.graph.ClearField("input"), False),
    "without outputs": (lambda model: model.graph.ClearField("output"), False),
    "without weights": (lambda model: model.graph.ClearField("initializer"), False),
    "without a graph": (lambda model: model.ClearField("graph"), False),
    "of another input": (lambda model: setattr(model.graph.input[0], "name", "x"), False),
    "of another output": (lambda model: setattr(model.graph.output[0], "name", "x"), False),
    "of 8 channels in": (lambda model: _channels(model, "input", 8), False),
    "of 8 channels out": (lambda model: _channels(model, "output", 8), None),
    "of integers": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64),
        False,
    ),
    "of an unknown operation": (lambda model: setattr(model.graph.node[5], "op_type", "Invented"), False),
    "of an unknown domain": (lambda model: setattr(model.graph.node[5], "domain", "invented"), False),
    "of opset 999": (lambda model: setattr(model.opset_import[0], "version", 999), None),
    "of IR 999": (lambda model: setattr(model, "ir_version", 999), None),
    "in a circle": (lambda model: model.graph.node[0].input.__setitem__(0, model.graph.output[0].name), False),
    "that does nothing": (_constant, None),
    "with a node twice": (lambda model: model.graph.node.extend([model.graph.node[5]]), None),
    "with a node less": (lambda model: model.graph.node.pop(5) and None, False),
    "of NaN": (lambda model: _values(model, float("nan")), None),
    "of infinities": (lambda model: _values(model, float("inf")), None),
    "of zeros": (lambda model: _values(model, 0.0), None),
    "of large numbers": (lambda model: _values(model, 1e30), None),
}
OUTSIDE: dict[str, tuple[str, bool, bool | None]] = {
    "listed": ("unet.onnx.data", True, True),
    "not listed": ("unet.onnx.data", False, False),
    "not listed, of another name": ("weights.bin", False, False),
    "above": ("../weights.bin", False, False),
    "absolute": ("$ABOVE/weights.bin", False, False),
    "missing": ("nowhere.bin", False, False),
    "of another part": ("vae_decoder.onnx", False, False),
    "in the manifest": ("manifest.json", False, False),
    "of no name": ("", False, False),
    "in a device": ("/dev/zero", False, False),
}


def _outside(location: str, listed: bool, more: dict[str, str], folder: Path) -> None:
    """One tensor of the UNet lies in a file of its own."""
    model = onnx.load(str(folder / "unet.onnx"))
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    data = tensor.raw_data
    location = location.replace("$ABOVE", str(folder.parent.resolve()))
    external_data_helper.set_external_data(tensor, location)
    for key, value in more.items():
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    target = folder / location
    if location and not target.exists() and "nowhere" not in location:
        target.write_bytes(data)
    rewrite(folder / "unet.onnx", model.SerializeToString())
    if listed:
        manifest = read(folder)
        manifest["files"][location] = {}
        write(folder, manifest)
    rehash(folder)
