"""No tensor is made without saying where: a constructor names its device, or stands in a list with a reason.

Random numbers are drawn on the host, whatever the device: a constructor that is handed a generator is there too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

ROOMS = ("calibrate", "families", "model", "onnx", "quantize")
CONSTRUCTORS = {
    "arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "logspace", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
LOADING = "a model is loaded, folded and proved on the host; its parts move afterwards"
# function: why what it makes is on the host
ALLOWED = {
    "calibrate/data.py:sources_of_picture": "a picture comes from a file; `on_device` moves it",
    "families/bidiffsr/reference.py:__init__": LOADING,
    "families/bidiffsr/reference.py:time_encoding": LOADING,
    "families/bidiffsr/unet.py:__init__": LOADING,
    "families/bidiffsr/unet.py:places": LOADING,
    **{
        f"families/image_network/ncnn_graphs.py:{name}": LOADING
        for name in ("compact", "in_branches", "plain", "weights")
    },
    "families/resshift/reference.py:time_embedding": LOADING,
    "families/resshift/unet.py:__init__": LOADING,
    "families/stable_diffusion/chain.py:_prove_blocks": LOADING,
    "families/stable_diffusion/folder.py:_alpha_bar": LOADING,
    "families/stable_diffusion/passionsr.py:read_layer": LOADING,
    "families/stable_diffusion/unet.py:__init__": LOADING,
    "families/stable_diffusion/vae.py:__init__": LOADING,
    "onnx/bundle.py:export_bundle": "ONNX Runtime's output, compared on the host",
    "onnx/to_onnx.py:_write_program": "a part is traced on the host",
    "quantize/observers.py:__init__": "counts are summed up on the host",
    "quantize/observers.py:centres": "of the counts, which are on the host",
    "quantize/observers.py:dobi_boundary": "of the counts, which are on the host",
    "model/sub_pixel.py:": "a small constant; it goes where the weight is",
}


def homeless(source: str) -> Iterator[tuple[str, int]]:
    """The enclosing function and line of every constructor that names neither device nor generator."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            named = any(keyword.arg in ("device", "generator", None) for keyword in node.keywords)
            if of_torch and node.func.attr in CONSTRUCTORS and not named:
                yield function, node.lineno
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function)

    return walk(ast.parse(source), "")


def found() -> list[tuple[str, str]]:
    """(file:function, file:line) of each."""
    places = []
    for room in ROOMS:
        for path in sorted((ROOT / "export" / room).rglob("*.py")):
            name = path.relative_to(ROOT / "export").as_posix()
            made = homeless(path.read_text(encoding="utf-8"))
            places += [(f"{name}:{function}", f"{name}:{line}") for function, line in made]
    return places


def test_every_constructor_names_its_device_or_has_a_reason() -> None:
    unknown = [place for function, place in found() if function not in ALLOWED]
    assert not unknown, "name a device, or give a reason in ALLOWED"


def test_generators_are_the_hosts() -> None:
    made = re.compile(r"Generator\((?!\))")
    assert not [
        path for room in ROOMS for path in (ROOT / "export" / room).rglob("*.py") if made.search(path.read_text())
    ]


def test_no_reason_outlives_what_it_excuses() -> None:
    assert set(ALLOWED) == {function for function, _place in found()}


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("x = torch.zeros(3)", True),
        ("x = [torch.arange(n) for n in (1, 2)]", True),
        ("x = torch.zeros(3, device=y.device)", False),
        ("x = torch.randn(3)", True),
        ("x = torch.randn(3, generator=g)", False),
        ("x = y.new_zeros(3)", False),
        ("x = torch.zeros_like(y)", False),
    ],
)
def test_a_constructor_without_a_device_is_seen(line: str, caught: bool) -> None:
    assert [function for function, _line in homeless(f"def f(y):\n    {line}")] == ["f"] * caught
