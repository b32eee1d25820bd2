"""Which PyTorch `make setup` takes: the plan, the look at an index, and what the Makefile does with TORCH=."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = {"torch": "2.14.1", "torchvision": "0.29.1"}
LISTED = '<a href="torch-2.14.1%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl">torch</a>'


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("setup_torch", ROOT / "setup_torch.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("wanted", "linux", "gpu", "reachable", "size"),
    [
        ("auto", True, False, True, "cpu"),
        ("auto", True, False, False, "cuda"),
        ("auto", True, True, True, "cuda"),
        ("cpu", True, True, True, "cpu"),
        ("cpu", True, False, False, None),
        ("cuda", True, False, True, "cuda"),
        ("auto", False, False, False, "pypi"),
    ],
)
def test_a_cpu_build_where_there_is_no_gpu_and_one_can_be_had(
    script: Any, wanted: str, linux: bool, gpu: bool, reachable: bool, size: str | None
) -> None:
    chosen = script.plan(wanted, VERSIONS, linux, gpu, reachable)
    assert (chosen and chosen.size) == size
    if chosen:
        local = "+cpu" if size == "cpu" else ""
        assert chosen.words[-2:] == (f"torch==2.14.1{local}", f"torchvision==0.29.1{local}")
        assert ("--extra-index-url" in chosen.words) == (size == "cpu")
        assert "GB to download" in script.SIZES[chosen.size]


def test_the_versions_are_the_pinned_ones(script: Any) -> None:
    assert set(script.pins(ROOT / "constraints.txt")) == set(script.PACKAGES)


@pytest.fixture
def index() -> Iterator[str]:
    """An index that lists a build, one that lists another, and one that never answers."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/silent"):
                ended.wait(20)
                return
            self.send_response(200 if not self.path.startswith("/gone") else 404)
            self.end_headers()
            self.wfile.write((LISTED if self.path == "/good/torch/" else "torch-2.13.0").encode())

        def log_message(self, *_words: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    ended.set()
    server.shutdown()
    server.server_close()


def test_one_look_finds_the_build_or_gives_up(script: Any, index: str) -> None:
    assert script.has_cpu_build(f"{index}/good", "2.14.1", "cp311")
    assert not script.has_cpu_build(f"{index}/good", "2.14.1", "cp312")
    assert not script.has_cpu_build(f"{index}/other", "2.14.1", "cp311")
    assert not script.has_cpu_build(f"{index}/gone", "2.14.1", "cp311")
    assert not script.has_cpu_build(f"{index}/silent", "2.14.1", "cp311", seconds=1)


@pytest.mark.parametrize("wanted", ["cpu", "auto"])
def test_where_no_cpu_build_can_be_had(
    script: Any, wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(script.sys, "platform", "linux")
    monkeypatch.setattr(script.shutil, "which", lambda _name: None)
    monkeypatch.setattr(script, "has_cpu_build", lambda *_: False)
    monkeypatch.setattr(script, "installed", lambda chosen: asked.append(chosen.size) or 0)
    assert script.main(wanted) == (1 if wanted == "cpu" else 0)
    said = capsys.readouterr()
    if wanted == "cpu":
        assert said.err.count("\n") == 1 and "TORCH=cuda takes PyPI" in said.err and not asked
    else:
        assert "3 GB" in said.out and "cannot be reached" in said.out and asked == ["cuda"]
    assert script.main("rocm") == 2


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_makefile_hands_torch_on_and_makes_the_environment_anew_for_another(tmp_path: Path) -> None:
    def planned(*words: str) -> str:
        command = ["make", "-n", "setup", f"VENV={tmp_path}", f"PYTHON={sys.executable}", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "setup_torch.py auto" in planned()
    (tmp_path / ".ready").write_text(sys.executable)
    (tmp_path / ".torch-cuda").touch()
    assert "setup_torch" not in planned() and "setup_torch" not in planned("TORCH=cuda")
    assert "--clear" in planned("TORCH=cpu") and "setup_torch.py cpu" in planned("TORCH=cpu")


def test_the_page_names_the_pins_and_the_build_for_a_machine_without_a_gpu(script: Any) -> None:
    versions = script.pins(ROOT / "constraints.txt")
    chosen = script.plan("cpu", versions, linux=True, gpu=False, reachable=True)
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    cpu, other = re.findall(r"pip install (torch==.*)", page)
    assert {*cpu.split()} == {*chosen.words}
    assert other.split() == [f"{name}=={version}" for name, version in versions.items()]
