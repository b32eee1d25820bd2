"""A changed ONNX graph on disk, beside the weights that it shares with the original."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx


def weight_files(model: onnx.ModelProto) -> set[str]:
    """Names of the files that hold weights outside the graph's own (large models)."""
    return {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


def part_files(path: Path) -> list[Path]:
    """A graph's file and the weights beside it."""
    return list(path.parent.glob(f"{path.name}*"))


@contextmanager
def on_disk(model: onnx.ModelProto, original: Path) -> Iterator[Path]:
    """`model`, loaded from `original` without its outside weights and changed, as a file while the context lasts.

    It lies in a temporary folder that links to those weights, since a protobuf in memory ends at 2 GB.
    """
    with tempfile.TemporaryDirectory(prefix="passionsr-trt-", ignore_cleanup_errors=True) as folder:
        for name in weight_files(model):
            _link(original.with_name(name).resolve(), Path(folder) / Path(name).name)
        path = Path(folder) / original.name
        onnx.save(model, str(path))
        yield path


def _link(source: Path, target: Path) -> None:
    """A hard link (OpenVINO refuses symbolic ones that leave the folder), or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
