"""The tuple of backends: every row is whole, and nothing but the rows asks for a backend's name."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.backends import BACKENDS, Backend
from passionsr_trt.engines.bundle.records import decode, encode
from passionsr_trt.engines.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def names_in(module: str) -> set[str]:
    """What a module defines, read and not imported: it may need a library that is not here."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_every_row_names_what_builds_and_what_runs(backend: Backend) -> None:
    module, _colon, builder = backend.builder.partition(":")
    assert builder in names_in(module) and "open_chain" in names_in(backend.runner)
    assert backend.package, "an extra brings its library"


def test_a_backend_is_kept_by_its_name() -> None:
    assert [Backend.from_json(encode(backend), "backend") for backend in BACKENDS] == [*BACKENDS]
    with pytest.raises(UserError, match=r"backend is 'cuda'; expected one of openvino, tensorrt-rtx, tensorrt$"):
        Backend.from_json("cuda", "backend")


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_targets_are_read_strictly(backend: Backend) -> None:
    with pytest.raises(UserError, match="target: unknown key 'invented'"):
        decode(backend.target, {"invented": 1}, "target")


def test_nothing_is_compared_with_a_backend_s_name() -> None:
    names = {backend.name for backend in BACKENDS}
    wrong = []
    for path in (path for room in ("engines", "export", "runtime") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "backend" in ast.unparse(node.left):
                texts = {entry.value for entry in ast.walk(node) if isinstance(entry, ast.Constant)}
                wrong += [f"{path.relative_to(ROOT)}: {ast.unparse(node)}"] if texts & names else []
    assert not wrong
