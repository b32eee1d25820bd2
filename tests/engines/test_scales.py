"""Weight scales moved behind half-precision convolutions, for TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.backends import TENSORRT_RTX, TargetOptions
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.wiring import ModelInfo
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.tensorrt.backend import make_logger
from passionsr_trt.engines.tensorrt.inspector import parse_layers
from passionsr_trt.engines.tensorrt.passes.scales import ScalesAfterConvolutions

from tests.conftest import needs_rtx
from tests.engines.rewriting import rewrite

CHANNELS = 64
BFLOAT16 = ir.DataType.BFLOAT16.numpy().type
TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, BFLOAT16: TensorProto.BFLOAT16}


def two_convolutions(kind: type, spread: float) -> onnx.ModelProto:
    """x → Q → DQ → Conv with a bias → ReLU, twice; weight scales of one convolution spread over `spread`."""
    random = np.random.default_rng(0)
    constants, nodes, current = [], [], "x"

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    zero, zeros = constant("zero", np.int8(0)), constant("zeros", np.zeros(CHANNELS, np.int8))
    for index in "ab":
        scale = constant(f"{index}.scale", np.array(0.03, kind))
        codes = constant(f"{index}.codes", random.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3), np.int8))
        weights = constant(f"{index}.weights", (2e-4 * np.geomspace(1, spread, CHANNELS)).astype(kind))
        bias = constant(f"{index}.bias", random.standard_normal(CHANNELS).astype(kind))
        for kind_, inputs, output, more in (
            ("QuantizeLinear", [current, scale, zero], "q", {}),
            ("DequantizeLinear", [f"{index}.q", scale, zero], "dq", {}),
            ("DequantizeLinear", [codes, weights, zeros], "w", {"axis": 0}),
            ("Conv", [f"{index}.dq", f"{index}.w", bias], "conv", {"pads": [1] * 4, "kernel_shape": [3, 3]}),
            ("Relu", [f"{index}.conv"], "relu", {}),
        ):
            nodes.append(helper.make_node(kind_, inputs, [f"{index}.{output}"], name=f"{index}.{output}", **more))
        current = f"{index}.relu"
    nodes.insert(0, helper.make_node("Cast", ["image"], ["x"], to=TYPES[kind]))
    nodes.append(helper.make_node("Cast", [current], ["y"], to=TensorProto.FLOAT))
    shape = [1, CHANNELS, 64, 64]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(reference_session(model).run(None, {"image": x})[0])


@pytest.mark.parametrize(("kind", "allowed"), [(np.float16, 3e-3), (BFLOAT16, 3e-2)])
def test_the_result_is_the_same(kind: type, allowed: float) -> None:
    model = two_convolutions(kind, 9.0)
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, 64, 64)).astype(np.float32)
    before = run(model, x)
    assert rewrite(model, ScalesAfterConvolutions()) == 2
    onnx.checker.check_model(model)
    after = run(model, x)
    assert np.abs(before).max() > 1
    # the first convolution's roundings may move single codes of the second
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < allowed
    assert rewrite(model, ScalesAfterConvolutions()) == 0, "nothing is left to do a second time"


@pytest.mark.parametrize(("kind", "spread"), [(np.float32, 9.0), (np.float16, 20000.0)])
def test_other_graphs_are_left_alone(kind: type, spread: float) -> None:
    model = two_convolutions(kind, spread)
    assert rewrite(model, ScalesAfterConvolutions()) == 0


@needs_rtx
@pytest.mark.parametrize("kind", [np.float16, BFLOAT16])
def test_tensorrt_rtx_moves_fewer_bytes(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(two_convolutions(kind, 9.0), str(path))

    class Part:
        name = "a"
        file = "a.onnx"

    monkeypatch.setattr("passionsr_trt.engines.tensorrt.backend.open_graph", lambda *_: path)
    model = ModelInfo("", "none", 1, "none", size=(64, 64))
    bundle = OnnxBundle(model, "fp16", None, (), {}, None, folder=tmp_path)
    builder = TENSORRT_RTX.builder_for([bundle], TargetOptions(compute_capabilities=("8.9",)))
    moved = []
    for find in (ScalesAfterConvolutions.find, lambda *_: iter(())):
        monkeypatch.setattr(ScalesAfterConvolutions, "find", find)
        logger = make_logger(builder.trt, tmp_path / "log")
        builder._serialize(bundle, Part(), logger)  # type: ignore[arg-type]
        logger.file.close()
        with (tmp_path / "log").open() as lines:
            layers, _kinds = parse_layers(lines)
        assert sum(layer.codes == "Int8" for layer in layers) == 2
        moved.append(sum(layer.bytes_moved for layer in layers))
    assert moved[0] < 0.75 * moved[1]
