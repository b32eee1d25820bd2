"""What may import what: a Jetson has no torch, and `python runtime/infer.py` puts runtime/ on the path."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("export", "engines", "runtime")
DEPENDENCIES = {
    "torch", "diffusers", "onnx", "onnxruntime", "openvino", "tensorrt", "polygraphy", "pycuda", "numpy",
    "PIL", "tqdm", "filelock", "matplotlib", "skimage", "scipy", "safetensors", "cuda",
}  # fmt: skip


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).glob("*.py"))


@pytest.mark.parametrize("room", ["runtime", "engines"])
def test_every_module_imports_without_torch_and_diffusers(room: str) -> None:
    names = [f"passionsr_trt.{room}.{path.stem}" for path in modules(room)]
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'diffusers', 'safetensors.torch'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_of_the_runtime_shadows_another_package() -> None:
    taken = set(sys.stdlib_module_names) | DEPENDENCIES
    assert not [path.name for path in modules("runtime") if path.stem in taken]


@pytest.mark.parametrize("path", [path for room in ROOMS for path in modules(room)], ids=str)
def test_imports_are_absolute_and_point_upstream_only(path: Path) -> None:
    allowed = {"export": {"export", "engines"}, "engines": {"engines"}, "runtime": {"runtime", "engines"}}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in ROOMS, f"{path}: bare import of {name}"
            if name.startswith("passionsr_trt."):
                assert name.split(".")[1] in allowed[path.parent.name], f"{path} imports {name}"
