"""Image networks: every architecture of the table from its checkpoint to INT8 engines, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.export.families.image_network.architectures import KNOWN
from passionsr_trt.export.families.image_network.rewriting import as_sites
from passionsr_trt.export.families.image_network.seams import seam_overlap
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.windows import shift_mask
from passionsr_trt.export.model.part import smooth_sources
from passionsr_trt.export.model.proof import TOLERANCE, relative_error
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.model.sub_pixel import SubPixelConv
from passionsr_trt.runtime.backends.loading import open_engines, open_onnx
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.metrics import psnr
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from passionsr_trt.runtime.main import main
from PIL import Image
from torch import nn

from tests.conftest import DEMO, TINY
from tests.export.networks import EXTRA_FORMS, FORMS, SMALL, write_small
from tests.helpers import applied, faked

# sites that TensorRT-RTX runs in float though they are quantized: docs/models.md
RTX_FLOAT = {
    "DAT": (".channel_interaction.4",),
    "HAT": (".attn.qkv", ".attention.3"),
    "OmniSR": (".to_qkv",),
    "RCAN": (".conv_du.2",),
    "SwinIR": (".attn.qkv",),
}
SEES_FAR = {"SAFMN": 28, "SPAN": 34}  # dB; tiles as small as the test's, random weights; measured: 29, 35
needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("spandrel_extra_arches") is None, reason="needs spandrel_extra_arches"
)


def calibrate(network: Path, tmp_path: Path, images: str = str(TINY), **spec: object) -> str:
    path, cache = tmp_path / "spec.json", str(tmp_path / "cache")
    path.write_text(json.dumps(spec))
    words = ["calibrate", str(network), "--images", images, "--limit", "2", "--spec", str(path), "--cache", cache]
    assert main(words) == 0
    return cache


@pytest.mark.kernels
@pytest.mark.parametrize("name", SMALL)
def test_an_architecture_goes_from_its_checkpoint_to_int8_engines(name: str, tmp_path: Path) -> None:
    if name == "SwinIR" and "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("OpenVINO's layer norm takes its AVX-512 kernel whatever the variable says, and crashes")
    network = write_small(name, tmp_path / ("network.pth" if name == "Compact" else "network.safetensors"))
    cache = calibrate(network, tmp_path, method="range", min_channels=0, keep_first_last=False)
    for kind, more in (("float", ["--float"]), ("int8", ["--cache", cache])):
        bundle = str(tmp_path / f"onnx_{kind}")
        assert main(["export", str(network), *more, "-o", bundle]) == 0
    assert main(["build-engines", str(tmp_path / "onnx_int8"), "-o", str(tmp_path / "int8")]) == 0
    engines = EngineBundle.load(tmp_path / "int8")
    coverage, part = engines.coverage["network"], engines.parts[0]
    assert coverage.sites_int8 == coverage.sites_quantized == len(part.sites) > 3, coverage.float_sites
    scale = engines.model.upscale
    picture = Image.open(DEMO / "photos" / "lr" / "astronaut.png").convert("RGB").crop((0, 0, 67, 45))
    nodes = onnx.load(str(tmp_path / "onnx_float" / "network.onnx"), load_external_data=False).graph.node
    assert not {node.op_type for node in nodes} & {"ScatterND", "ScatterElements"}, "activations in place"
    exact = open_onnx(OnnxBundle.load(tmp_path / "onnx_float"))
    expected = by_the_authors(network, picture, exact)
    found = np.asarray(super_resolve(exact, picture, Options()).image, float)
    assert found.shape == (45 * scale, 67 * scale, 3)
    assert np.abs(found - expected).max() <= 1, "any size, the float graph is the authors' network"
    quantized = np.asarray(super_resolve(open_engines(engines), picture, Options()).image, float)
    assert 0 < np.abs(quantized - found).mean() < 8
    tiled = super_resolve(exact, picture, Options(tile=max(96, 2 * exact.multiple)))
    assert tiled.tiles is not None, "it was cut"
    seen = psnr(Image.fromarray(found.astype(np.uint8)), tiled.image)
    assert seen > SEES_FAR.get(name, 45), "seams do not show"
    words = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9", "-o", str(tmp_path / "rtx")]
    assert main(["build-engines", str(tmp_path / "onnx_int8"), *words]) == 0
    rtx = EngineBundle.load(tmp_path / "rtx").coverage["network"]
    allowed = RTX_FLOAT.get(name, ())
    assert [site for site in rtx.float_sites if not site.endswith(allowed)] == [], "docs/models.md has the list"
    assert rtx.macs_share > 0.8


# RealPLKSR-dysample-x4 is x2's form at another scale
MARKS = {"RealPLKSR-dysample-x4": pytest.mark.accept, **dict.fromkeys(EXTRA_FORMS, needs_extra)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in (*FORMS, *EXTRA_FORMS)]
)
def test_further_forms_of_an_architecture_are_exported_for_any_size(name: str, tmp_path: Path) -> None:
    """Float graphs are the authors' networks; INT8 ones are near them, by the exact reference executor."""
    network = write_small(name, tmp_path / "network.safetensors")
    picture, results = Image.open(DEMO / "photos" / "lr" / "astronaut.png").convert("RGB").crop((0, 0, 27, 21)), []
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "picture.png")
    cache = calibrate(network, tmp_path, str(tmp_path / "images"), method="range")
    for kind, more in (("float", ["--float"]), ("int8", ["--cache", cache])):
        assert main(["export", str(network), *more, "-o", str(tmp_path / kind)]) == 0
        chain = open_onnx(OnnxBundle.load(tmp_path / kind))
        results.append(np.asarray(super_resolve(chain, picture, Options()).image, float))
    exact, quantized = results
    assert np.abs(exact - by_the_authors(network, picture, chain)).max() <= 1
    assert 0 < np.abs(quantized - exact).mean() < 1


def by_the_authors(network: Path, picture: Image.Image, chain: Chain) -> np.ndarray:
    """What spandrel's module makes of a picture, mirrored out to the chain's multiple first."""
    from spandrel import ModelLoader

    module = ModelLoader().load_from_file(network).model.eval()
    x = torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255
    scale, height, width = chain.model.upscale, picture.height, picture.width
    multiple = chain.multiple // scale
    x = nn.functional.pad(x, (0, -width % multiple, 0, -height % multiple), mode="reflect")
    with torch.no_grad():
        result = module(x)[0, :, : height * scale, : width * scale]
    return (result.clamp(0, 1) * 255).round().permute(1, 2, 0).double().numpy()


def test_tiles_of_a_convolutional_network_are_the_whole_picture(tmp_path: Path) -> None:
    """Scale 3: the overlap by itself is the least of 32 pixels, or what its grid of 3 pixels allows of that."""
    network = write_small("Compact", tmp_path / "network.safetensors")
    assert main(["export", str(network), "--float", "-o", str(tmp_path / "onnx")]) == 0
    chain = open_onnx(OnnxBundle.load(tmp_path / "onnx"))
    picture = Image.open(DEMO / "photos" / "lr" / "astronaut.png").convert("RGB").crop((0, 0, 100, 60))
    whole = np.asarray(super_resolve(chain, picture, Options()).image, float)
    tiled = super_resolve(chain, picture, Options(tile=150))
    assert tiled.tiles is not None and tiled.tiles.overlap == 30
    assert np.abs(np.asarray(tiled.image, float) - whole).max() <= 1


@pytest.mark.parametrize("reach", [0, 5, 20, 60])
def test_tiles_overlap_as_far_as_a_network_sees(reach: int) -> None:
    """A mean over 2·reach + 1 pixels, of each picture's own edge beyond it, in front of an enlargement by 2."""

    def run(lr: torch.Tensor) -> torch.Tensor:
        spread = nn.functional.pad(lr, (reach, reach, 0, 0), mode="replicate")
        return nn.functional.interpolate(nn.functional.avg_pool2d(spread, (1, 2 * reach + 1), 1), scale_factor=2.0)

    overlap = seam_overlap(run, 1, 2)
    assert overlap % 16 == 0 and 32 <= overlap <= 192
    if reach in (5, 20):
        assert 0.8 * 4 * reach <= overlap <= 4 * reach + 16, "twice the distance from the cut, at scale 2"
    else:
        assert overlap == (32 if reach == 0 else 192)


@pytest.mark.parametrize(
    "name, how",
    [
        ("Compact", {"granularity": "module"}),
        ("SwinIR", {"granularity": "block"}),
        ("SwinIR", {"attention": True}),
        ("ESRGAN", {"granularity": "block"}),
    ],
)
def test_learned_calibration_folds_under_proof_and_beats_ranges(
    name: str, how: dict[str, Any], tmp_path: Path
) -> None:
    from passionsr_trt.engines.bundle.spec import QuantSpec
    from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
    from passionsr_trt.export.calibrate.pipeline import calibrate as calibrate_model

    network = write_small(name, tmp_path / "network.safetensors")
    files = calibration_files(TINY, 2)
    errors = {}
    for method in ("range", "learned"):
        model = load_model(network)
        spec = QuantSpec(
            method=method,
            bits_weights=6,
            bits_activations=6,
            min_channels=0,
            pictures="photos",
            let_steps=4,
            lbq_steps=8,
            correction_steps=8,
            **how,
        )
        calibration = calibrate_model(model, spec, files)
        part = model.parts[0]
        (sample,) = crops([load_sources(files[0], model)], model, 1, 128)
        with torch.no_grad():
            expected = part.run(sample)
            with faked(part, applied(calibration, part, smooth_sources(model.parts, (64, 128)))):
                errors[method] = relative_error(expected, part.run(sample))
    assert errors["learned"] < errors["range"]


def test_products_of_attention_are_quantized_where_the_spec_says_so(tmp_path: Path) -> None:
    network = write_small("SwinIR", tmp_path / "network.safetensors")
    picture, results, quantizers = Image.open(DEMO / "photos" / "lr" / "brick.png").convert("RGB"), [], []
    for attention, bits in ((False, 8), (True, 8), (True, 6)):
        folder = tmp_path / f"{attention}-{bits}"
        folder.mkdir()
        how = {"attention": attention, "bits_weights": bits, "bits_activations": bits}
        cache = calibrate(network, folder, method="range", min_channels=0, **how)
        assert main(["export", str(network), "--cache", cache, "-o", str(folder / "onnx")]) == 0
        if attention:
            assert main(["build-engines", str(folder / "onnx"), "-o", str(folder / "engines")]) == 0
        nodes = onnx.load(str(folder / "onnx" / "network.onnx"), load_external_data=False).graph.node
        quantizers.append(sum(node.op_type == "QuantizeLinear" for node in nodes))
        chain = open_onnx(OnnxBundle.load(folder / "onnx"))
        results.append(np.asarray(super_resolve(chain, picture.crop((0, 0, 32, 24)), Options()).image, float))
    assert quantizers[1] - quantizers[0] == 2 * 4, "q, k, softmax and v of two blocks"
    assert 0 < np.abs(results[1] - results[0]).mean() < 4


def test_a_network_without_such_products_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, spec = write_small("Compact", tmp_path / "network.pth"), tmp_path / "spec.json"
    spec.write_text('{"attention": true}')
    words = ["calibrate", str(network), "--images", str(TINY), "--spec", str(spec), "--cache", str(tmp_path)]
    assert main(words) == 1
    assert "no product of attention" in capsys.readouterr().err.strip().splitlines()[-1]


@torch.no_grad()
def test_rewriting_merges_norms_and_enlargements_exactly() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8),
        nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(8, 3, 3, padding=1),
    ).eval()  # fmt: skip
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean):
                assert values is not None
                values.normal_()
    x = torch.randn(2, 4, 6, 5)
    expected = layers(x)
    rewritten = as_sites(layers)
    assert relative_error(expected, rewritten(x)) < TOLERANCE
    kinds = [type(layer) for layer in rewritten.children()]
    assert kinds == [nn.Conv2d, nn.Identity, SiteConv, nn.Identity, nn.Identity, SubPixelConv]


def test_masks_are_those_of_swin_transformer() -> None:
    from spandrel.architectures.SwinIR.__arch.SwinIR import SwinTransformerBlock

    block = SwinTransformerBlock(8, (64, 64), 2, window_size=8, shift_size=4)
    for size in ((8, 8), (16, 40), (64, 24)):
        assert torch.equal(block.calculate_mask(size), shift_mask(size, (8, 8), (4, 4)))


def test_a_checkpoint_becomes_a_folder_and_gives_the_same_graph(tmp_path: Path) -> None:
    network = write_small("Compact", tmp_path / "network.pth")
    words = ["import-model", "--family", "image-network", str(network), "-o", str(tmp_path / "model")]
    assert main(words) == 0
    assert json.loads((tmp_path / "model" / "network.json").read_text()) == {"architecture": "Compact", "scale": 3}
    first, second = load_model(network).parts[0], load_model(tmp_path / "model").parts[0]
    sources = smooth_sources([first], (96, 63))
    with torch.no_grad():
        assert torch.equal(first.run(sources), second.run(sources))
    (tmp_path / "model" / "network.json").write_text('{"architecture": "Compact", "scale": 4}')
    assert main(["export", str(tmp_path / "model"), "--float", "-o", str(tmp_path / "out")]) == 1


def test_every_architecture_of_the_table_is_tried() -> None:
    assert {name for name, known in KNOWN.items() if not known.refused} == {*SMALL, *EXTRA_FORMS}
