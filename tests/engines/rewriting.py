"""Rewritings applied to graphs in memory and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from passionsr_trt.engines.graph import rewriting as graphs
from passionsr_trt.engines.graph.rewriting import Rewriting, save


def rewrite(model: onnx.ModelProto, rewriting: Rewriting[Any]) -> int:
    """Rewrite a graph in place; returns how many matches there were. One without any is left as it is."""
    graph = ir.from_proto(model)
    found, before = len(list(rewriting.find(graph.graph))), ir.to_proto(graph).SerializeToString()
    assert rewriting(graph).modified == bool(found)
    if found:
        model.CopyFrom(ir.to_proto(graph))
    else:
        assert ir.to_proto(graph).SerializeToString() == before
    return found


def rewrite_outside(
    model: onnx.ModelProto, rewriting: Rewriting[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The file of a rewritten graph whose weights lie outside it; the original is not touched."""
    (folder / "before").mkdir()
    (folder / "after").mkdir()
    path, made = folder / "before" / "model.onnx", folder / "after" / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    kept = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    graph = ir.load(path)
    assert rewriting(graph).modified
    monkeypatch.setattr(graphs, "LARGE", 0)
    save(graph, made)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == kept
    assert (made.parent / "model.onnx.data").stat().st_size
    return made
