"""One ONNX file for other tools: the chain's own picture, by Pillow's own enlargement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.export.onnx import single_file
from passionsr_trt.export.onnx.around_chain import after, numbers, parsed
from passionsr_trt.export.onnx.bicubic import enlargement
from passionsr_trt.runtime.backends.loading import open_onnx
from passionsr_trt.runtime.core import colour
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import COMMITTED, DEMO
from tests.export.networks import write_small


@settings(max_examples=20, deadline=None)
@given(
    scale=st.sampled_from([2, 3, 4, 8]),
    width=st.integers(4, 40),
    height=st.integers(4, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_enlargement_is_pillows_code_for_code(scale: int, width: int, height: int, seed: int) -> None:
    text, constants = enlargement("x", "y", scale)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, None, None]) for name in ("x", "y")]
    graph = helper.make_graph(parsed(text), "enlargement", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    (found,) = reference_session(model).run(None, {"x": picture.transpose(2, 0, 1)[None].astype(np.float32)})
    assert np.array_equal(found[0].transpose(1, 2, 0), np.asarray(expected, np.float32))


def picture_of(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB").crop((0, 0, 67, 45))


def as_input(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255


@pytest.mark.parametrize("align", ["adain", "wavelet", "none"])
def test_one_file_gives_the_picture_that_infer_gives(align: str, tmp_path: Path) -> None:
    bundle = OnnxBundle.load(COMMITTED / "onnx_fp32")
    path = tmp_path / "model.onnx"
    single_file.write_single_file(bundle, path, align)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    size = sum(bundle.open(part).stat().st_size for part in bundle.parts)
    assert path.stat().st_size < 1.02 * size
    picture = picture_of(DEMO / "photos" / "lr" / "astronaut.png")
    result = super_resolve(open_onnx(bundle), picture, Options(tile=0, align=align)).image
    (found,) = reference_session(path).run(None, {"lr": as_input(picture)})
    codes = np.rint(found[0].transpose(1, 2, 0) * 255)
    assert np.abs(codes - np.asarray(result, float)).max() <= 1
    properties = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert (properties["scale"], properties["colour_fix"]) == (str(bundle.model.upscale), align)
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(compiled({"lr": as_input(picture)})[0] - found).max() * 255 < 1, "OpenVINO runs it too"


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("size", [(3, 5), (40, 33)])
def test_the_colour_fix_of_the_graph_is_the_runtimes(align: str, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    result, source = (random.normal(mean, 0.4, (3, *size)).astype(np.float32) for mean in (0.1, -0.2))
    constants = {**numbers(OnnxBundle.load(COMMITTED / "onnx_fp32")), "sides": np.array(size, np.int64)}
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, None, None])
        for name in ("result", "enlarged", "picture")
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(after("result", align), "after", values[:2], values[2:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (found,) = reference_session(model).run(None, {"result": result[None], "enlarged": source[None]})
    expected = colour.align(result.clip(-1, 1), source, align)
    np.testing.assert_allclose(found[0], (expected / 2 + 0.5).clip(0, 1), atol=1e-6)


def test_a_network_quantized_in_one_file_by_the_command(tmp_path: Path) -> None:
    """And that TensorRT-RTX compiles it for any size."""
    import tensorrt_rtx as trt
    from passionsr_trt.engines.tensorrt.backend import network_flags

    network, one = write_small("Compact", tmp_path / "network.pth"), tmp_path / "made" / "one.onnx"
    words = ["--images", str(DEMO / "calib" / "lr"), "--limit", "2", "--method", "range"]
    words += ["--cache", str(tmp_path / "cache")]
    assert main(["calibrate", str(network), *words]) == 0
    export = ["export", str(network), "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "onnx")]
    for _again in range(2):  # the bundle is made, then found
        assert main([*export, "--single-file", str(one)]) == 0
    picture = picture_of(DEMO / "photos" / "lr" / "coffee.png")
    result = super_resolve(open_onnx(OnnxBundle.load(tmp_path / "onnx")), picture, Options(tile=0)).image
    (found,) = reference_session(one).run(None, {"lr": as_input(picture)})
    assert np.abs(np.rint(found[0].transpose(1, 2, 0) * 255) - np.asarray(result, float)).max() <= 1
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(str(one)).graph.node)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    definition = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(definition, logger)
    assert parser.parse(one.read_bytes()), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("lr", (1, 3, 32, 32), (1, 3, 64, 48), (2, 3, 96, 96))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(definition, config) is not None


def test_a_file_that_is_not_the_chain_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coefficients = single_file.before

    def wrong(*arguments: object) -> object:
        nodes, constants = coefficients(*arguments)  # type: ignore[arg-type]
        constants["inner_high"] = constants["inner_high"] + 1
        return nodes, constants

    monkeypatch.setattr(single_file, "before", wrong)
    with pytest.raises(UserError, match="not the chain's picture"):
        single_file.write_single_file(OnnxBundle.load(COMMITTED / "onnx_fp32"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_asked_for_wrongly_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_small("Compact", tmp_path / "network.pth")
    for words, reason in (
        (["--single-file", str(tmp_path / "one.txt")], "ending in .onnx"),
        (["--align", "adain"], "expected --single-file"),
    ):
        capsys.readouterr()
        assert main(["export", str(model), "--float", "-o", str(tmp_path / "onnx"), *words]) == 2
        assert reason in capsys.readouterr().err
