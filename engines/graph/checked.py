"""A part's ONNX graph as its bundle states it: it parses, takes and gives what the wiring says, and holds the Q/DQ
of exactly the sites that are stated as quantized, in codes of the stated format; weights outside it are files that
the manifest lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import helper
from passionsr_trt.engines.bundle.bundles import Bundle
from passionsr_trt.engines.bundle.formats import CODE_FORMATS
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.names import owner_of


def open_graph(bundle: Bundle, part: PartInfo) -> Path:
    """The checked path of a part's graph; UserError where the file is whole and yet not what the bundle says."""
    path, listed = bundle.open(part), bundle.listed(part)
    expected = f"expected {part.name} as its manifest says"
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not an ONNX graph ({str(error).splitlines()[0]})", expected) from None
    if unlisted := sorted(weight_files(model) - set(listed)):
        raise UserError(f"{path}: takes weights from {unlisted[0]!r}, which is not listed", expected)
    for tensor in model.graph.initializer:
        if tensor.external_data and not _lies_within(tensor, listed):
            raise UserError(f"{path}: {tensor.name} lies beyond its file", expected)
    names = tuple(value.name for value in model.graph.input), tuple(value.name for value in model.graph.output)
    if names != (tuple(tensor.name for tensor in part.inputs), (part.output.name,)):
        raise UserError(f"{path}: takes {', '.join(names[0])} and gives {', '.join(names[1])}", expected)
    producers = {name: node for node in model.graph.node for name in node.output}
    codes = {}
    for node in model.graph.node:
        weight = producers.get(node.input[1]) if len(node.input) > 1 else None
        if weight is not None and weight.op_type == "DequantizeLinear":
            codes[owner_of(node.name)] = weight.input[0]  # an engine may have several of a site, SITE/phase0
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for site in part.sites:
        if site.quantized != (site.name in codes):
            state = "quantized" if site.name in codes else "float"
            raise UserError(f"{path}: {site.name} is {state}", expected, "make the bundle again")
        if site.quantized and types.get(codes[site.name]) not in (CODE_FORMATS[part.format].onnx_type, None):
            raise UserError(f"{path}: {site.name} is not {part.format}", expected, "make the bundle again")
    return path


def weight_files(model: onnx.ModelProto) -> set[str]:
    """Names of the files that hold weights outside the graph's own (large models)."""
    return {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _lies_within(tensor: onnx.TensorProto, listed: Mapping[str, Mapping[str, Any]]) -> bool:
    """Are a tensor's bytes where it says that they lie, in a file of the listed size?"""
    place = {entry.key: entry.value for entry in tensor.external_data}
    size = prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    offset, length = place.get("offset", "0"), place.get("length", str(size))
    if not (offset.isascii() and offset.isdigit() and len(offset) < 20 and length == str(size)):
        return False
    return int(offset) + size <= listed[place["location"]]["size"]
