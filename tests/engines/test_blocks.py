"""A convolution with few outputs as blocks of pixels: the same picture, only where its sides are even."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.backends import OPENVINO
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino import backend as openvino_builder
from passionsr_trt.engines.openvino.passes.blocks import PixelsInBlocks
from passionsr_trt.runtime.main import main

from tests.conftest import Built
from tests.engines.rewriting import rewrite, rewrite_outside


def graph(outputs: int = 3, kernel: int = 3, bias: bool = True, **attributes: object) -> onnx.ModelProto:
    """x [1, 5, height, width] → Conv → out."""
    random = np.random.default_rng(0)
    tensors = {"weight": random.standard_normal((outputs, 5, kernel, kernel)).astype(np.float32)}
    if bias:
        tensors["bias"] = random.standard_normal(outputs).astype(np.float32)
    attributes = {"pads": [kernel // 2] * 4, **attributes}
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", *tensors], ["out"], "last", **attributes)],
            "last",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, "height", "width"])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, outputs, None, None])],
            [numpy_helper.from_array(value, name) for name, value in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )


def run(model: onnx.ModelProto | Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, 5, 8, 6)).astype(np.float32)
    result: np.ndarray = reference_session(model).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("outputs", [1, 3, 4])
def test_blocks_give_the_same_picture(
    outputs: int, kernel: int, bias: bool, outside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, blocks = graph(outputs, kernel, bias), PixelsInBlocks("out")
    before = run(model)
    assert before.shape == (1, outputs, 8, 6)
    if outside:
        path = rewrite_outside(model, blocks, tmp_path, monkeypatch)
        onnx.checker.check_model(str(path), full_check=True)
        np.testing.assert_allclose(run(path), before, rtol=1e-5, atol=1e-5)
        return
    assert rewrite(model, blocks) == 1
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-5)
    assert [node.op_type for node in model.graph.node] == ["Conv", "DepthToSpace"]
    assert all(tensor.name.endswith("/blocks") for tensor in model.graph.initializer), "the old weight is gone"
    assert rewrite(model, blocks) == 0, "nothing is left to do a second time"


@pytest.mark.parametrize(
    "model",
    [
        graph(outputs=5),
        graph(strides=[2, 2]),
        graph(dilations=[2, 2]),
        graph(pads=[0, 0, 1, 1]),
        graph(kernel=2, pads=[1] * 4),
        graph(auto_pad=b"SAME_UPPER", pads=[0] * 4),
    ],
    ids=["many", "stride", "dilation", "pads", "even kernel", "automatic pads"],
)
def test_others_are_left_alone(model: onnx.ModelProto) -> None:
    assert rewrite(model, PixelsInBlocks("out")) == 0
    assert rewrite(model, PixelsInBlocks("x")) == 0, "no node gives an input"


def test_a_weight_of_codes_is_left_alone() -> None:
    model = graph()
    model.graph.node.insert(0, helper.make_node("Identity", ["weight"], ["known"]))
    model.graph.node[1].input[1] = "known"
    assert rewrite(model, PixelsInBlocks("out")) == 0


def test_the_cpu_chooses_and_the_key_says_it(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build-engines", str(small.onnx_fp32), "-o", str(tmp_path)]
    monkeypatch.setattr(openvino_builder, "pixels_faster_in_blocks", lambda: True)
    assert main(words) == 0, "proved against ONNX Runtime"
    assert EngineBundle.load(tmp_path).key["blocks"] == "True"
    assert onnx.load(str(tmp_path / "vae_decoder.onnx")).graph.node[-1].op_type == "DepthToSpace"
    monkeypatch.setattr(openvino_builder, "pixels_faster_in_blocks", lambda: False)
    assert main(words) == 0 and "reused" in capsys.readouterr().out, "the probe may fall either way"


@pytest.mark.parametrize(("faster", "multiple"), [(True, 1), (False, 8)])
def test_only_sides_that_are_even_for_sure_and_only_where_it_is_faster(
    small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool, multiple: int
) -> None:
    monkeypatch.setattr(openvino_builder, "pixels_faster_in_blocks", lambda: faster)
    bundle = OnnxBundle.load(small.onnx_fp32)
    builder, part = OPENVINO.builder_for([bundle]), bundle.parts[-1]
    shutil.copy(bundle.open(part), tmp_path)
    builder.build(bundle, replace(part, multiple=multiple), tmp_path)
    assert onnx.load(str(tmp_path / part.file)).graph.node[-1].op_type == "Conv"
