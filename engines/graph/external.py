"""ONNX graphs on disk: changed ones beside the weights that they share, and constants wherever they lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from passionsr_trt.engines.common.temporaries import temporary_folder


def weight_files(model: onnx.ModelProto) -> set[str]:
    """Names of the files that hold weights outside the graph's own (large models)."""
    return {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


def part_files(path: Path) -> list[Path]:
    """A graph's file and the files beside it that it takes weights from."""
    model = onnx.load(str(path), load_external_data=False)
    return [path, *(path.with_name(Path(name).name) for name in sorted(weight_files(model)))]


@contextmanager
def on_disk(model: onnx.ModelProto, original: Path) -> Iterator[Path]:
    """`model`, loaded from `original` without its outside weights and changed, as a file while the context lasts.

    It lies in a temporary folder that links to those weights, since a protobuf in memory ends at 2 GB.
    """
    with temporary_folder() as folder:
        for name in weight_files(model):
            _link(original.with_name(name).resolve(), folder / Path(name).name)
        path = folder / original.name
        onnx.save(model, str(path))
        yield path


def _link(source: Path, target: Path) -> None:
    """A hard link (OpenVINO refuses symbolic ones that leave the folder), or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int]:
    """File and offset of a tensor that lies outside its graph."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return folder / Path(entries["location"]).name, int(entries.get("offset", 0))


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """A constant, wherever it lies; folder: of the graph's file."""
    if not tensor.external_data:
        return numpy_helper.to_array(tensor)
    file, offset = _place(tensor, folder)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.fromfile(file, kind, int(np.prod(tensor.dims)), offset=offset).reshape(tensor.dims)


def rows_of(tensor: onnx.TensorProto, index: int, count: int, name: str) -> onnx.TensorProto:
    """One of `count` equal parts of a constant's rows under another name; outside weights stay where they lie."""
    if not tensor.external_data:
        rows = np.split(numpy_helper.to_array(tensor), count)[index]
        return numpy_helper.from_array(np.ascontiguousarray(rows), name)
    part = onnx.TensorProto()
    part.CopyFrom(tensor)
    part.name, part.dims[0] = name, tensor.dims[0] // count
    size = int(np.prod(part.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    entries = {entry.key: entry.value for entry in tensor.external_data}
    entries |= {"offset": str(int(entries.get("offset", 0)) + index * size), "length": str(size)}
    entries.pop("checksum", None)
    del part.external_data[:]
    for key, value in entries.items():
        part.external_data.add(key=key, value=value)
    return part


def write_tensor(tensor: onnx.TensorProto, value: np.ndarray, folder: Path) -> None:
    """A constant's new value, of its type and as many bytes, where it lies; its shape may be another."""
    if not tensor.external_data:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
        return
    file, offset = _place(tensor, folder)
    with file.open("r+b") as target:
        target.seek(offset)
        target.write(value.tobytes())
    del tensor.dims[:]
    tensor.dims.extend(value.shape)
