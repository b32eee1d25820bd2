"""Half precision that overflows: float32 islands around what reaches too far, bfloat16 beside, and who says so.

The network overflows by construction: GAIN in each of its first convolutions is taken back in as many later ones,
which in float32 changes nothing. PReLU lets positive factors through.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.half_precision import half_tensors, in_float32, with_largest
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.runtime.main import main
from safetensors.torch import save_file

from tests.conftest import TINY, needs_rtx
from tests.export.networks import _make

GAIN, GROWING, SHRINKING = 100.0, ("body.2", "body.4", "body.6"), ("body.8", "body.10", "body.12")


def write(path: Path, gain: float) -> Path:
    """A Compact network of eight convolutions; of any gain the same in float."""
    torch.manual_seed(0)
    network = _make("Compact", "Compact", num_feat=16, num_conv=6, upscale=2)()
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    grown = 1.0
    for name in (*GROWING, *SHRINKING):
        factor = gain if name in GROWING else 1 / gain
        grown *= factor
        state[f"{name}.weight"] *= factor
        state[f"{name}.bias"] *= 0.05 * grown  # within half precision
    state["body.14.weight"] *= 100  # else the enlarged picture, which goes past, is nearly all
    save_file(state, path)
    return path


def exported(network: Path, output: Path, *more: str) -> OnnxBundle:
    assert main(["export", str(network), "-o", str(output), *more]) == 0
    return OnnxBundle.load(output)


@cache
def picture() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (1, 3, 24, 40)).astype(np.float32)


def as_a_gpu(bundle: OnnxBundle) -> np.ndarray:
    """The network's output with every result rounded to half precision."""
    return run(onnx.load(str(open_graph(bundle, bundle.parts[0]))))


def run(model: onnx.ModelProto) -> np.ndarray:
    session = reference_session(model)
    return session.run(None, {session.get_inputs()[0].name: picture()})[0]


def in_float(network: Path, output: Path) -> np.ndarray:
    return run(onnx.load(str(open_graph(bundle := exported(network, output, "--float"), bundle.parts[0]))))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("overflowing") / "network.safetensors", GAIN)


def test_where_values_reach_too_far_the_graph_stays_float32_and_nowhere_else(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = in_float(network, tmp_path / "float")
    capsys.readouterr()
    bundle = exported(network, tmp_path / "half", "--float", "--precision", "fp16", "--images", str(TINY))
    said = next(line for line in capsys.readouterr().out.splitlines() if "half precision ends" in line)
    (part,) = bundle.parts
    assert (
        "network.body.body.6" in part.islands
        and "network.body.body.8" in part.islands
        and all(node in said for node in part.islands)
    )
    assert not {"network.body.body.2", "network.body.body.12"} & {*part.islands}, "values there are small"
    assert apart(as_a_gpu(bundle), expected) < 0.01
    model = onnx.load(str(open_graph(bundle, part)))
    givers = {name: node.name for node in model.graph.node for name in node.output}
    halves = half_tensors(model)
    assert halves and not {givers[name] for name in halves} & {*part.islands}
    assert furthest(model, halves) < 65504 / 4
    beyond = [name for name, node in givers.items() if node in part.islands]
    assert furthest(model, beyond) > 65504, "as half precision it would be infinite"


def furthest(model: onnx.ModelProto, tensors: list[str]) -> float:
    """max |x| of some tensors, computed in float32."""
    session = reference_session(with_largest(in_float32(model, rounded=False), tensors))
    return max(map(float, session.run(None, {session.get_inputs()[0].name: picture()})[1:]))


def test_a_network_that_stays_near_has_no_islands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = write(tmp_path / "network.safetensors", 1.0)
    bundle = exported(network, tmp_path / "half", "--float", "--precision", "fp16")
    assert bundle.parts[0].islands == () and bundle.measured_on == ""
    assert "times less" in capsys.readouterr().out
    model = onnx.load(str(open_graph(bundle, bundle.parts[0])))
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 2, (
        "behind the first and before the last site"
    )


def test_other_pictures_are_measured_again_and_the_same_are_not(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--float", "--precision", "fp16", "--size", "64x64")
    first = exported(network, tmp_path / "half", *words, "--images", str(TINY))
    capsys.readouterr()
    assert (
        exported(network, tmp_path / "half", *words, "--images", str(TINY)).measured_on == first.measured_on != ""
    )
    assert "reused" in capsys.readouterr().out
    assert exported(network, tmp_path / "half", *words).measured_on == ""
    assert "reused" not in capsys.readouterr().out


def test_pictures_for_another_precision_are_wrong_usage(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(network), "--float", "--images", str(TINY), "-o", str(tmp_path / "o")]
    assert main([*words, "--precision", "bf16"]) == 2
    assert "--images with --precision bf16; expected fp16" in capsys.readouterr().err


def test_a_constant_beyond_half_precision_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = write(tmp_path / "network.safetensors", 1e7)
    words = ["export", str(network), "--float", "--precision", "fp16", "-o", str(tmp_path / "o")]
    assert main(words) == 1
    assert "is too large for half precision; export with --precision bf16" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_weights_beside_a_graph_stay_beside_it(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a large model's do."""
    expected = in_float(network, tmp_path / "float")
    monkeypatch.setattr("passionsr_trt.export.onnx.to_onnx.EXTERNAL_DATA_BYTES", 1)
    monkeypatch.setattr("passionsr_trt.engines.graph.rewriting.LARGE", 1)
    bundle = exported(network, tmp_path / "half", "--float", "--precision", "fp16")
    assert bundle.parts[0].islands
    assert {path.name for path in bundle.folder.iterdir()} == {
        "manifest.json",
        "network.onnx",
        "network.onnx.data",
    }
    session = reference_session(open_graph(bundle, bundle.parts[0]))
    assert apart(session.run(None, {session.get_inputs()[0].name: picture()})[0], expected) < 0.01


@needs_rtx
@pytest.mark.parametrize("codes", ["int8", "w8"])
def test_codes_stay_at_their_sites_within_an_island(network: Path, tmp_path: Path, codes: str) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"method": "range", "min_channels": 0}))
    words = ["--images", str(TINY), "--limit", "2", "--spec", str(tmp_path / "spec.json")]
    assert main(["calibrate", str(network), *words, "--cache", str(tmp_path / "cache")]) == 0
    words = ["--cache", str(tmp_path / "cache"), "--precision", "fp16", "--format", codes]
    bundle = exported(network, tmp_path / "half", *words)
    assert "network.body.body.8" in bundle.parts[0].islands
    assert np.isfinite(as_a_gpu(bundle)).all()
    words = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9", "--require-int8", "1.0"]
    assert main(["build-engines", str(tmp_path / "half"), "-o", str(tmp_path / "engines"), *words]) == 0
    engines = EngineBundle.load(tmp_path / "engines")
    assert engines.parts[0].islands == bundle.parts[0].islands


@needs_rtx
def test_bfloat16_reaches_as_far_as_float32(network: Path, tmp_path: Path) -> None:
    bundle = exported(network, tmp_path / "bfloat16", "--float", "--precision", "bf16")
    assert bundle.parts[0].islands == () and bundle.label == "BF16"
    found = run(onnx.load(str(open_graph(bundle, bundle.parts[0]))))
    assert 1e-4 < apart(found, in_float(network, tmp_path / "float")) < 0.08
    words = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9"]
    assert main(["build-engines", str(tmp_path / "bfloat16"), "-o", str(tmp_path / "engines"), *words]) == 0
    layers = json.loads((tmp_path / "engines" / "network.layers.json").read_text())
    convolutions = [layer["precision"] for layer in layers if layer["kind"] == "correlation"]
    assert sorted(convolutions) == ["BFloat16"] * 6 + ["Float"] * 2, "all but the first and the last"
