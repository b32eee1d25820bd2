"""ONNX Runtime's TensorRT-RTX provider: what is missing is one line; with a card a chain runs by it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.tensorrt.library import has_driver
from passionsr_trt.runtime.backends import rtx_provider
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import COMMITTED

BUNDLE = str(COMMITTED / "onnx_int8")


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    rtx_provider.registered.cache_clear()
    yield
    rtx_provider.registered.cache_clear()


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plug-in whose library is no library."""
    library = tmp_path / "lib.so"
    library.write_bytes(b"nothing")
    module = SimpleNamespace(get_library_path=lambda: str(library), get_ep_name=lambda: "Rtx")
    monkeypatch.setitem(sys.modules, rtx_provider.MODULE, module)


def test_a_missing_plug_in_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, rtx_provider.MODULE, None)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    words = ["infer", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--engines", BUNDLE]
    assert main([*words, "--provider", "nv-tensorrt-rtx"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "onnxruntime-ep-nv-tensorrt-rtx-cu12 is not installed" in line and "pip install" in line
    assert not (tmp_path / "b.png").exists()


@pytest.mark.usefixtures("plugin")
def test_a_library_that_cannot_be_loaded_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"Rtx: its library cannot be loaded \(.*\); expected an RTX card"
    ) as caught:
        rtx_provider.rtx_session(Path("graph.onnx"))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("plugin")
def test_no_card_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda _name, _path: None)
    with pytest.raises(UserError, match="Rtx: no device for it here; expected an RTX card"):
        rtx_provider.rtx_session(Path("graph.onnx"))


@pytest.mark.gpu
@pytest.mark.skipif(not has_driver(), reason="no NVIDIA driver")
def test_a_chain_runs_by_the_provider() -> None:
    pytest.importorskip(rtx_provider.MODULE)
    from passionsr_trt.engines.bundle.bundles import OnnxBundle
    from passionsr_trt.runtime.backends.loading import open_onnx
    from passionsr_trt.runtime.core.planning import Options
    from passionsr_trt.runtime.core.upscaler import super_resolve

    photo = Image.effect_noise((64, 64), 40).convert("RGB")
    bundle = OnnxBundle.load(COMMITTED / "onnx_fp32")
    expected, found = (
        np.asarray(super_resolve(open_onnx(bundle, provider=name), photo, Options()).image, np.float64)
        for name in ("cpu", "nv-tensorrt-rtx")
    )
    assert np.abs(expected - found).mean() < 1
