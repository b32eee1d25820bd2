"""Built engines are proved: what is planted in one is found and named, and right ones pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.names import owner_of, weight_node
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.pictures.drawn import photo_like, screen_like

from tests.conftest import Built

pytest.importorskip("openvino")
from passionsr_trt.engines.bundle.backends import OPENVINO
from passionsr_trt.engines.openvino import proof
from passionsr_trt.engines.openvino.half_range import within_limit
from passionsr_trt.engines.openvino.site_proof import Original, Tensors, allowed, prove_sites, segments

SMALL_SITES = {
    "vae_encoder": "vae_encoder.down_blocks.1.resnets.0.conv2",
    "unet": "unet.mid_block.resnets.0.conv1",
    "vae_decoder": "vae_decoder.up_blocks.2.resnets.0.conv1",
}


@dataclass(frozen=True)
class Case:
    """A part of the small model, its engine's graph, the judge's and its inputs."""

    part: PartInfo
    engine: Path
    judge: Path
    feeds: dict[str, Tensors]


@pytest.fixture(scope="module")
def cases(small: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    bundle, folder = OnnxBundle.load(small.onnx_int8), tmp_path_factory.mktemp("judges")
    limit = OPENVINO.builder_for([bundle]).target.weight_code_limit
    tensors, found = proof.proof_sources(bundle, screen_like), {}
    for part in bundle.parts:
        judge = folder / part.file
        with within_limit(bundle.open(part), limit) as copy:
            shutil.copyfile(copy, judge)
        feed = part.feed(tensors)
        tensors[part.output.name] = reference_session(judge).run(None, feed)[0]
        found[part.name] = Case(part, small.engines_int8 / part.file, judge, {"the picture": feed})
    return found


def scale_off(model: onnx.ModelProto, site: str) -> None:
    """Every weight of a site is worth 5 % more."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name.startswith(weight_node(site)):
            scales = constants[node.input[1]]
            scales.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scales) * np.float32(1.05), scales.name))


def behind(model: onnx.ModelProto, site: str, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> None:
    """Put nodes that take `raw` and give `result` behind a convolution."""
    index, conv = next((i, node) for i, node in enumerate(model.graph.node) if node.name == site)
    result, conv.output[0] = conv.output[0], "raw"
    nodes[-1].output[0] = result
    for place, node in enumerate(nodes, index + 1):
        model.graph.node.insert(place, node)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


def channel_shifted(model: onnx.ModelProto, site: str) -> None:
    """The tenth channel of a site's result is the ninth."""
    nodes = [
        helper.make_node("Slice", ["raw", "zero", "nine", "channels"], ["before"]),
        helper.make_node("Slice", ["raw", "eight", "nine", "channels"], ["ninth"]),
        helper.make_node("Slice", ["raw", "ten", "end", "channels"], ["after"]),
        helper.make_node("Concat", ["before", "ninth", "after"], ["result"], axis=1),
    ]
    numbers = {"zero": 0, "eight": 8, "nine": 9, "ten": 10, "end": 1 << 30, "channels": 1}
    behind(model, site, nodes, **{name: np.array([value]) for name, value in numbers.items()})


def border_off(model: onnx.ModelProto, site: str) -> None:
    """The last column of a site's result is 10 % more, as where a kernel's last tile is wrong."""
    nodes = [
        helper.make_node("Slice", ["raw", "first", "last", "columns"], ["inner"]),
        helper.make_node("Slice", ["raw", "last", "end", "columns"], ["border"]),
        helper.make_node("Mul", ["border", "more"], ["spoilt"]),
        helper.make_node("Concat", ["inner", "spoilt"], ["result"], axis=3),
    ]
    numbers = {"first": 0, "last": -1, "end": 1 << 30, "columns": 3}
    constants = {name: np.array([value]) for name, value in numbers.items()}
    behind(model, site, nodes, more=np.array(1.1, np.float32), **constants)


@pytest.mark.parametrize("plant", [scale_off, channel_shifted, border_off])
@pytest.mark.parametrize("name", list(SMALL_SITES))
def test_a_planted_fault_is_named(
    name: str, plant: Callable[[onnx.ModelProto, str], None], cases: dict[str, Case], tmp_path: Path
) -> None:
    case, site = cases[name], SMALL_SITES[name]
    model = onnx.load(str(case.engine))
    plant(model, site)
    onnx.save(model, str(tmp_path / case.engine.name))
    with pytest.raises(UserError, match=rf"wrong on this CPU: {site} is off by"):
        prove_sites(case.part, tmp_path / case.engine.name, case.judge, case.feeds)


def test_a_linear_s_scale_is_judged_as_well(cases: dict[str, Case], tmp_path: Path) -> None:
    case, site = cases["unet"], "unet.mid_block.attentions.0.transformer_blocks.0.ff.out"
    model = onnx.load(str(case.engine))
    scale_off(model, site)
    onnx.save(model, str(tmp_path / case.engine.name))
    with pytest.raises(UserError, match=rf"{site} is off by"):
        prove_sites(case.part, tmp_path / case.engine.name, case.judge, case.feeds)


@pytest.mark.parametrize("keys", ["Transpose <perm = [0, 2, 1]> (c)", "Identity (c)"])
def test_a_product_of_two_activations_is_judged_by_its_norm(keys: str) -> None:
    text = f"""<ir_version: 9, opset_import: ["": 20]>
        scores (float[1, 4, 4] q, float[1, 4, 4] k) => (float[1, 4, 4] y)
        <float scale = {{0.1}}, int8 zero = {{0}}>
        {{
            p = QuantizeLinear (q, scale, zero)
            a = DequantizeLinear (p, scale, zero)
            b = QuantizeLinear (k, scale, zero)
            c = DequantizeLinear (b, scale, zero)
            t = {keys}
            y = MatMul (a, t)
        }}"""
    product = next(node for node in ir.from_onnx_text(text).graph if node.op_type == "MatMul")
    expected = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    most = allowed(product, expected)
    assert list(most) == [1, 2] and np.isclose(most[1][3], 1e-4 * np.square(expected[0, 3]).sum())


def test_every_site_is_in_one_sub_graph_s_results(cases: dict[str, Case]) -> None:
    for case in cases.values():
        found = segments(ir.load(case.engine).graph, Original(case.judge))
        judged = [owner_of(str(node.name)) for segment in found for node in segment.results.values()]
        assert sorted(judged) == sorted(site.name for site in case.part.sites if site.quantized)


def test_a_chain_that_drifts_too_far_as_a_picture_is_refused(
    small: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = OnnxBundle.load(small.onnx_fp32)
    builder = OPENVINO.builder_for([bundle])
    builder.prove(bundle, small.engines_fp32)
    assert "dB from the engines to their ONNX bundle" in capsys.readouterr().out
    monkeypatch.setattr(proof, "FLOOR", 200.0)
    monkeypatch.setattr(proof, "MARGIN", -200.0)
    with pytest.raises(UserError, match="dB from the bundle's"):
        builder.prove(bundle, small.engines_fp32)


def test_a_whole_part_that_is_off_is_refused(small: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that no sub-graph shows: the part's own compilation."""
    original = proof.compile_static

    def wrong(path: Path, shapes: object, **more: object) -> object:
        compiled = original(path, shapes, **more)
        return lambda inputs: {0: compiled(inputs)[0] * np.float32(1.3)}

    monkeypatch.setattr(proof, "compile_static", wrong)
    bundle = OnnxBundle.load(small.onnx_fp32)
    with pytest.raises(UserError, match="wrong on this CPU: vae_encoder is off by"):
        OPENVINO.builder_for([bundle]).prove(bundle, small.engines_fp32)


def test_pictures_are_the_same_every_time_and_unlike_one_another() -> None:
    for draw in (photo_like, screen_like):
        first, again, other = (np.asarray(draw((48, 80), seed)) for seed in (3, 3, 4))
        assert first.shape == (48, 80, 3) and (first == again).all() and (first != other).any()
    assert len(np.unique(np.asarray(screen_like((64, 64))).reshape(-1, 3), axis=0)) > 100


def test_shifts_are_taken_back_by_the_weights_that_are_used(demo: Built, tmp_path: Path) -> None:
    """Brought within ±63, weights have other sums; the bias has to follow those."""
    bundle = OnnxBundle.load(demo.onnx_int8)
    builder = OPENVINO.builder_for([bundle])
    builder.target = replace(builder.target, weight_code_limit=63)
    part = bundle.part("vae_decoder")
    builder.build(bundle, part, tmp_path)
    random = np.random.default_rng(0)
    feed = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in part.shapes((128, 128)).items()}
    with within_limit(bundle.open(part), 63) as judge:
        prove_sites(part, tmp_path / part.file, judge, {"noise": feed})


@pytest.mark.parametrize("kind", ["Sign", "Tanh"])
def test_a_float_graph_may_differ_by_signs_that_fall_the_other_way(kind: str, tmp_path: Path) -> None:
    """A constant input stands at a tie: noise of 1e-5 turns half of the signs."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy"]
    least = numpy_helper.from_array(np.float32(-1), "least")
    nodes = [helper.make_node("Add", ["x", "least"], ["sum"]), helper.make_node(kind, ["sum"], ["y"])]
    graph = helper.make_graph(nodes, kind, values[:1], values[1:], [least])
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), str(tmp_path / "part.onnx"))
    session = reference_session(tmp_path / "part.onnx")
    feed = {"x": np.full((1, 3, 8, 8), 1 + 1e-6, np.float32)}
    expected = session.run(None, feed)[0]
    bound = proof.float_bound(tmp_path / "part.onnx", session, feed, expected)
    assert bound > 1 if kind == "Sign" else bound == 1e-4
