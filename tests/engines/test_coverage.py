"""INT8 coverage, from the engines themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.wiring import PartInfo, SiteInfo, TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.coverage import Layer, measure
from passionsr_trt.engines.tensorrt.inspector import parse_layers
from passionsr_trt.engines.tensorrt.roofline import part_layers
from passionsr_trt.runtime.main import main

from tests.conftest import DEMO, ROOT, TINY, Built, needs_rtx, needs_torch

pytestmark = pytest.mark.kernels

LOG = """\
[VERBOSE] noise
[VERBOSE] Name: conv_a_myl0_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,64,8,8], Strides: [1], Datatype: Int8, Format: (NHWC) }], Constants: [ { Name: w, Dimensions: [64,64,3,3], Strides: [1], Datatype: Int8, Format: (NHWC) }], Outputs: [ { Name: y, Dimensions: [1,64,8,8], Strides: [1], Datatype: Float, Format: (NHWC) }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: unet.a][ONNX Layer: unet.a/input/DequantizeLinear]
[VERBOSE] Name: point_myl0_2, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [1,64,8,8], Strides: [1], Datatype: Float, Format: (NHWC) }], Constants: [], Outputs: [ { Name: z, Dimensions: [1,64,8,8], Strides: [1], Datatype: Half, Format: (NHWC) }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: unet.a]
[VERBOSE] Name: gemm_b_myl0_3, LayerType: gemm, Inputs: [ { Name: z, Dimensions: [64,64], Strides: [1], Datatype: Half, Format: (Linear) }], Constants: [ { Name: w2, Dimensions: [64,64], Strides: [1], Datatype: Int8, Format: (Linear) }], Outputs: [], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: unet.b]
[VERBOSE] Name: signal_myl0_4, LayerType: signal, Inputs: [], Constants: [], Outputs: [], StreamId: 0, Metadata:
"""  # noqa: E501


def site(name: str, quantized: bool = True, macs: int = 10) -> SiteInfo:
    return SiteInfo(name, "conv", name, quantized, macs, macs)


def part(*sites: SiteInfo, kind: str = "int8") -> PartInfo:
    picture = TensorInfo("image", 3, 1)
    return PartInfo("unet", "unet.onnx", (picture,), TensorInfo("out", 3, 1), 1, sites=sites, format=kind)


def test_the_layer_log_is_read() -> None:
    layers, kinds = parse_layers(LOG.splitlines())
    assert kinds == {"correlation Int8": 1, "kgen": 1, "gemm": 1}
    assert layers[0].names[0] == "unet.a" and layers[0].codes == "Int8"
    assert layers[0].bytes_moved == 64 * 64 * 1 + 64 * 64 * 9 * 1 + 64 * 64 * 4
    assert not layers[2].codes, "int8 weights with half inputs are not an INT8 kernel"


def test_coverage_counts_sites_and_macs() -> None:
    layers, kinds = parse_layers(LOG.splitlines())
    coverage = measure(part(site("unet.a"), site("unet.b", macs=30), site("unet.c", False, 60)), layers, kinds)
    assert (coverage.sites_int8, coverage.sites_quantized) == (1, 2)
    assert coverage.macs_share == pytest.approx(0.1) and coverage.float_sites == ["unet.b"]


def test_fp8_sites_run_only_where_the_layer_multiplies_fp8() -> None:
    layers, kinds = parse_layers(LOG.replace("Datatype: Int8", "Datatype: FP8").splitlines())
    assert kinds == {"correlation FP8": 1, "kgen": 1, "gemm": 1} and layers[0].precision == "FP8"
    assert layers[0].bytes_moved == 64 * 64 * 1 + 64 * 64 * 9 * 1 + 64 * 64 * 4
    coverage = measure(part(site("unet.a"), site("unet.b"), kind="fp8"), layers, kinds)
    assert (coverage.sites_fp8, coverage.sites_int8, coverage.float_sites) == (1, 0, ["unet.b"])
    assert "FP8 sites 1/2" in coverage.line("unet")
    other = measure(part(site("unet.a"), site("unet.b"), kind="int8"), layers, kinds)
    assert other.sites_running == 0, "an FP8 kernel is no INT8 one"


def test_layers_that_only_convert_are_counted() -> None:
    layers = [
        Layer("a", "gemm", "Int8", ("unet.a", "unet.a/input/DequantizeLinear")),
        Layer("b", "kgen", "", ("unet.a/input/QuantizeLinear",)),
        Layer("c", "kgen", "", ("unet.a/input/QuantizeLinear", "node_silu")),
        Layer("d", "kgen", "", ("node__to_copy_cast_3",)),
        Layer("e", "kgen", ""),
    ]
    coverage = measure(part(site("unet.a")), layers, Counter(kgen=4, gemm=1))
    assert coverage.conversions == ["b", "d"] and "2 of them only convert" in coverage.line("unet")


def test_a_site_in_no_layer_is_an_error() -> None:
    with pytest.raises(UserError, match=r"unet\.lost: not found"):
        measure(part(site("unet.lost")), [Layer("x", "gemm", "Int8", ("unet.a",))], Counter())


def test_openvino_runs_every_site_of_the_demo_in_int8(demo: Built) -> None:
    bundle = EngineBundle.load(demo.engines_int8)
    for part, figures in bundle.coverage.items():
        assert figures.sites_quantized > 0 and not figures.float_sites, part
        assert figures.macs_share > 0.97, part
    for figures in EngineBundle.load(demo.engines_fp32).coverage.values():
        assert figures.sites_int8 == 0


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.accept)])
def test_tensorrt_rtx_runs_every_site_of_the_demo_in_int8(
    demo: Built, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx, engines = str(demo.onnx_int8), str(tmp_path / "engines")
    if precision == "fp16":
        onnx = str(tmp_path / "onnx")
        words = ["--cache", str(ROOT / "calib_cache"), "--precision", precision]
        assert main(["export", str(DEMO / "model"), *words, "-o", onnx]) == 0
    capabilities = [word for sm in ("8.6", "8.9", "12.0") for word in ("--compute-capability", sm)]
    arguments = ["build-engines", onnx, "-o", engines, "--backend", "tensorrt-rtx", *capabilities]
    assert main([*arguments, "--require-int8", "1.0"]) == 0
    bundle = EngineBundle.load(Path(engines))
    for part, figures in bundle.coverage.items():
        assert figures.sites_quantized > 0 and not figures.float_sites, part
        assert figures.bytes_moved > 0
    assert bundle.target.compute_capabilities == ("8.6", "8.9", "12.0")
    assert "LayerType: " in (Path(engines) / "unet.log").read_text()
    for part in bundle.parts:
        sites = {site.name for site in part.sites}
        kernels = [layer for layer in part_layers(bundle, part) if sites & set(layer.names)]
        macs = sum(layer.macs for layer in kernels)
        own = sum(site.macs for site in part.sites)
        border = 0.3 * sum(
            site.macs for site in part.sites if site.macs != site.macs_written
        )  # 9×9 positions for 8×8
        assert own <= macs <= own + border, "the kernels do the sites' arithmetic, and all of it"
    capsys.readouterr()
    assert main(["predict", engines, "--gpu", "RTX 4090"]) == 0
    assert "INT8" in capsys.readouterr().out
    assert main(["predict", engines, "--gpu", "Voodoo 2"]) == 2
    assert "expected one of RTX 4070" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "reused" in capsys.readouterr().out


@needs_rtx
def test_half_precision_around_them_leaves_sites_in_int8(tmp_path: Path) -> None:
    """A small network; `make accept` does the same with the demo."""
    needs_torch()
    from tests.export.networks import write_small

    network = str(write_small("Compact", tmp_path / "network.safetensors"))
    cache, onnx, engines = (str(tmp_path / name) for name in ("cache", "onnx", "engines"))
    (tmp_path / "spec.json").write_text('{"method": "range", "min_channels": 0}')
    words = ["--images", str(TINY), "--limit", "1", "--spec", str(tmp_path / "spec.json"), "--cache", cache]
    assert main(["calibrate", network, *words]) == 0
    assert main(["export", network, "--cache", cache, "-o", onnx, "--precision", "fp16"]) == 0
    words = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9", "--require-int8", "1.0"]
    assert main(["build-engines", onnx, "-o", engines, *words]) == 0
    bundle = EngineBundle.load(Path(engines))
    assert bundle.precision == "fp16" and bundle.coverage["network"].sites_int8 == 3


def test_the_gate_fails_below_the_required_share(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build-engines", str(small.onnx_fp32), "-o", str(tmp_path / "out"), "--require-int8", "0.5"]
    assert main(arguments) == 1
    assert "0.0% of the spec's sites run INT8" in capsys.readouterr().err


@needs_rtx
def test_an_unknown_compute_capability_is_named(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "build-engines",
        str(small.onnx_int8),
        "-o",
        str(tmp_path / "out"),
        "--backend",
        "tensorrt-rtx",
    ]
    assert main([*arguments, "--compute-capability", "9.0"]) == 1
    assert "expected some of 7.5" in capsys.readouterr().err
