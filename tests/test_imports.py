"""What may import what, and what may know of what: a Jetson has no torch, arrows go down, rooms name no family."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = ("export", "engines", "runtime")
DEPENDENCIES = {
    "torch", "diffusers", "onnx", "onnxruntime", "openvino", "tensorrt", "polygraphy", "pycuda", "numpy",
    "PIL", "tqdm", "filelock", "matplotlib", "skimage", "scipy", "safetensors", "cuda", "gradio", "jinja2",
    "onnx_ir", "av",
}  # fmt: skip

# from the bottom up: a room imports from itself and from rooms before it; what stands together does not meet
BACKENDS = ("engines.openvino", "engines.tensorrt")
ENGINES = ("engines.common", "engines.bundle", "engines.pictures", "engines.graph", BACKENDS, "engines")
EXPORT = ("export.model", "export.quantize", "export.families", "export.onnx", "export.calibrate", "export")
RUNTIME = ("runtime.pictures", "runtime.core", "runtime.backends", "runtime.apps", "runtime")
# a family, its parts and what they are made of; other rooms know wiring alone
FAMILY_WORDS = re.compile(
    r"vae|unet|lora\b|latent_channels|timestep|posterior|stable.diffusion|text_embedding|clean_latent",
    re.IGNORECASE,
)


def modules(top: str) -> list[Path]:
    return sorted((ROOT / top).rglob("*.py"))


EVERY = [path for top in TOP for path in modules(top)]


def loadable(top: str) -> list[str]:
    """Modules that can be loaded here: PyAV has no wheels for Python 3.10."""
    names = [name_of(path) for path in modules(top)]
    if importlib.util.find_spec("av") is None:
        names = [name for name in names if not name.startswith("runtime.apps.video.")]
    return [f"passionsr_trt.{name}" for name in names]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """`engines.openvino.graph` → `engines.openvino`; a module that lies in no room is in the top one."""
    known = {*ENGINES[:4], *BACKENDS, *EXPORT[:-1], *RUNTIME[:-1]}
    return next((name for name in known if f"{module}.".startswith(f"{name}.")), module.split(".")[0])


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Our modules that one imports, and whether when it is loaded; only what runs counts, not what types need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            assert name.split(".")[0] not in TOP, f"{path}: bare import of {name}"
            if name.startswith("passionsr_trt.") and id(node) not in typed:
                yield name.removeprefix("passionsr_trt."), id(node) not in lazy


def below(own: str) -> set[str]:
    """Rooms that a room may import from."""
    order: tuple[str | tuple[str, str], ...] = ENGINES
    top = own.split(".")[0]
    if top != "engines":
        order = (*ENGINES, *(EXPORT if top == "export" else RUNTIME))
    allowed: set[str] = {own}
    for entry in order:
        together = (entry,) if isinstance(entry, str) else entry
        if own in together:
            return allowed
        allowed |= set(together)
    raise AssertionError(f"{own}: in no order")


@pytest.mark.parametrize("top", ["runtime", "engines"])
def test_every_module_imports_without_torch_and_diffusers(top: str) -> None:
    names = loadable(top)
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'diffusers', 'safetensors.torch'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_runs_engines_imports_no_onnx_ir(tmp_path: Path) -> None:
    """It is for what builds them; a picture is upscaled without it as well."""
    names = loadable("runtime")
    picture, engines = ROOT / "demo/photos/lr/coffee.png", ROOT / "tests/data/small/onnx_fp32"
    out = tmp_path / "out.png"
    words = ["infer", str(picture), "-o", str(out), "--engines", str(engines), "--provider", "cpu"]
    code = (
        "import importlib, sys\n"
        "sys.modules['onnx_ir'] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "from passionsr_trt.runtime.main import main\n"
        f"sys.exit(main({words!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and out.is_file(), done.stderr


def test_no_module_of_the_runtime_shadows_another_package() -> None:
    taken = set(sys.stdlib_module_names) | DEPENDENCIES
    assert not [path.name for path in (ROOT / "runtime").glob("*.py") if path.stem in taken]


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_arrows_between_rooms_go_down(path: Path) -> None:
    own = room(name_of(path))
    allowed = below(own)
    wrong = [name for name, _now in imports(path) if room(name) not in allowed]
    assert not wrong, f"{own} may import from {sorted(allowed)}"


def test_no_circle_among_modules() -> None:
    names = {name_of(path) for path in EVERY}
    arrows = {name_of(path): {name for name, now in imports(path) if now and name in names} for path in EVERY}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in arrows[name] - {name}:
                visit(other, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


@pytest.mark.parametrize("path", [path for path in EVERY if "families" not in path.parts], ids=name_of)
def test_no_room_but_the_families_names_a_family_or_a_part(path: Path) -> None:
    """In code; prose may. The table of subcommands names modules."""
    if name_of(path) == "runtime.main":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    strings = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words |= {text for text in strings if "\n" not in text and " " not in text}
    assert not sorted(word for word in words if FAMILY_WORDS.search(word))


def test_no_file_is_longer_than_450_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in EVERY}
    assert not {name: length for name, length in lengths.items() if length > 450}
