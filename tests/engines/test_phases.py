"""Sub-pixel convolutions as one a phase: the same picture, every site INT8, weights outside the graph too."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.graph.coverage import measure, openvino_layers
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino import backend as openvino_builder
from passionsr_trt.engines.openvino.compile import compile_static
from passionsr_trt.engines.openvino.passes.phases import PhasesApart
from passionsr_trt.engines.openvino.probes import LAYERS, layer_model
from passionsr_trt.runtime.main import main

from tests.conftest import Built
from tests.engines.rewriting import rewrite, rewrite_outside

KIND = "sub-pixel form"


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYERS, KIND, ((1, 16, 5, 7), (32, 16, 2, 2)))


def graph(int8: bool) -> onnx.ModelProto:
    """x → the layer → the enlarged tensor itself instead of its mean."""
    model = onnx.load_from_string(layer_model(KIND, int8))
    model.graph.node.pop()
    model.graph.node[-1].output[0] = "out"
    for tensor in model.graph.initializer:
        if tensor.name == "weight_scale":  # a scale for every row, so that a wrong order shows
            tensor.CopyFrom(numpy_helper.from_array(np.linspace(0.01, 0.05, 32, dtype=np.float32), tensor.name))
    bias = np.linspace(-1, 1, 32, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    next(node for node in model.graph.node if node.op_type == "Conv").input.append("bias")
    return model


def run(model: onnx.ModelProto | Path) -> np.ndarray:
    x = np.random.default_rng(1).uniform(-1, 1, LAYERS[KIND][0]).astype(np.float32)
    result: np.ndarray = reference_session(model).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("int8", [False, True])
def test_phases_give_what_the_whole_gave_borders_included(int8: bool) -> None:
    model = graph(int8)
    before = run(model)
    assert before.shape == (1, 8, 10, 14)
    assert rewrite(model, PhasesApart()) == 1
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-5)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 4 and "Slice" not in kinds
    assert {tensor.name for tensor in model.graph.initializer} <= {
        n for node in model.graph.node for n in node.input
    }
    assert rewrite(model, PhasesApart()) == 0, "nothing is left to do a second time"


def test_weights_outside_the_graph_are_split_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph(int8=True)
    before = run(model)
    path = rewrite_outside(model, PhasesApart(), tmp_path, monkeypatch)
    np.testing.assert_allclose(run(path), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["pads", "crop", "mode", "reader"])
def test_what_is_no_such_convolution_is_left_alone(change: str) -> None:
    model = graph(int8=True)
    conv, shuffle = (
        next(node for node in model.graph.node if node.op_type == kind) for kind in ("Conv", "DepthToSpace")
    )
    if change == "pads":
        next(entry for entry in conv.attribute if entry.name == "pads").ints[:] = [0, 1, 1, 1]
    elif change == "crop":
        next(tensor for tensor in model.graph.initializer if tensor.name == "last").CopyFrom(
            numpy_helper.from_array(np.array([-1, -2]), "last")
        )
    elif change == "mode":
        next(entry for entry in shuffle.attribute if entry.name == "mode").s = b"CRD"
    else:
        model.graph.node.append(onnx.helper.make_node("Identity", ["convolved"], ["seen"]))
    assert rewrite(model, PhasesApart()) == 0


def test_every_site_of_a_model_stays_int8(small: Built, tmp_path: Path) -> None:
    bundle = OnnxBundle.load(small.onnx_int8)
    rewritten = 0
    for part in bundle.parts:
        path = tmp_path / part.file
        shutil.copy(bundle.open(part), path)
        model = onnx.load(str(path))
        rewritten += rewrite(model, PhasesApart())
        onnx.save(model, str(path))
        coverage = measure(part, *openvino_layers(compile_static(path, part.shapes((128, 128)))))
        assert not coverage.float_sites and coverage.sites_int8 == coverage.sites_quantized
    assert rewritten == 4, "one in the UNet, three in the decoder"


@pytest.mark.slow
@pytest.mark.parametrize("faster", [False, True])
def test_the_cpu_chooses_and_the_key_says_it(
    small: Built,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    faster: bool,
) -> None:
    words = ["build-engines", str(small.onnx_int8), "-o", str(tmp_path)]
    monkeypatch.setattr(openvino_builder, "phases_faster_apart", lambda: faster)
    assert main(words) == 0, "proved against ONNX Runtime"
    assert EngineBundle.load(tmp_path).key["phases"] == str(faster)
    names = [node.name for node in onnx.load(str(tmp_path / "vae_decoder.onnx")).graph.node]
    assert any(name.endswith("/phase3") for name in names) == faster
    monkeypatch.setattr(openvino_builder, "phases_faster_apart", lambda: not faster)
    assert main(words) == 0 and "reused" in capsys.readouterr().out, "the probe may fall either way"
