"""BI-DiffSR: the authors' numbers, exact codes of signs, a part a step, every command."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.names import QUANTIZE, port_node, weight_node
from passionsr_trt.engines.pictures.pictures import noise
from passionsr_trt.export.families.bidiffsr.chain import NAME, BinaryModel, build_model
from passionsr_trt.export.families.bidiffsr.checkpoints import read_state, unet_of
from passionsr_trt.export.families.bidiffsr.family import read_model
from passionsr_trt.export.families.bidiffsr.reference import BinaryUNet
from passionsr_trt.export.families.bidiffsr.sampler import Ddim
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.part import Model, smooth_sources
from passionsr_trt.export.model.proof import TOLERANCE, FoldError, relative_error
from passionsr_trt.export.model.signs import SignConv
from passionsr_trt.export.onnx.bundle import reaction
from passionsr_trt.export.onnx.to_onnx import run_reference
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import known_rows, quantized_sites
from passionsr_trt.export.quantize.grids import FP8_CODES
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from passionsr_trt.export.quantize.to_format import to_format
from passionsr_trt.runtime.main import main
from PIL import Image
from torch import Tensor

from tests.conftest import DEMO, ROOT, TINY, made_once, needs_rtx
from tests.export.test_resshift import psnr

NUMBERS = os.environ.get("BIDIFFSR_SMALL")  # a folder: unet.pth, expected.safetensors
STEPS = 3  # the first, one like it, the last
NAMES = ["unet_3", "unet_2", "unet_1"]


def generator() -> ModuleType:
    """benchmarks/bidiffsr_model.py."""
    path = ROOT / "benchmarks" / "bidiffsr_model.py"
    spec = importlib.util.spec_from_file_location("bidiffsr_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_small(folder: Path) -> Path:
    """unet.pth: two levels, the first of the decoder's plain."""
    made = generator()
    sizes = made.Sizes(inner=16, norm_groups=4, levels=(1, 2), blocks=1, float_levels=1)
    path: Path = made.write(folder, sizes)
    return path


def import_small(folder: Path) -> None:
    words = ["import-model", "--family", NAME, "--unet", str(write_small(folder / "files")), "--norm-groups", "4"]
    assert main([*words, "--steps", str(STEPS), "-o", str(folder / "model")]) == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder of three steps."""
    return made_once(tmp_path_factory, "bidiffsr", import_small) / "model"


@pytest.fixture(scope="module")
def loaded(model: Path) -> Model:
    return load_model(model)


@pytest.fixture(scope="module")
def given() -> tuple[BinaryUNet, dict[str, Tensor]]:
    if NUMBERS is None:
        pytest.skip("BIDIFFSR_SMALL names no numbers")
    from safetensors.torch import load_file

    path = Path(NUMBERS) / "unet.pth"
    return unet_of(read_state(path), 4, 2000, path), load_file(path.with_name("expected.safetensors"))


@torch.no_grad()
def test_single_evaluations_and_the_block_of_attention_are_the_authors(
    given: tuple[BinaryUNet, dict[str, Tensor]],
) -> None:
    unet, expected = given
    both = torch.cat([expected["cond"], expected["x"]], dim=1)
    for timestep in (1960, 900, 120):
        assert relative_error(expected[f"eval.t{timestep}"], unet(both, timestep)) <= TOLERANCE
    assert [unet.group(timestep) for timestep in (1999, 1960, 900, 120, 0)] == [4, 4, 2, 0, 0]
    found = unet.mid[0](expected["mid0.in_t900"], unet.embedding(900), unet.group(900))
    assert relative_error(expected["mid0.out_t900"], found) <= TOLERANCE


@pytest.mark.parametrize("name", ["s5", "s3_pad"])
@torch.no_grad()
def test_the_authors_own_trajectories_are_reproduced(
    name: str, given: tuple[BinaryUNet, dict[str, Tensor]]
) -> None:
    """Teacher-forced, by the reference and by the folded parts; then free-running."""
    unet, every = given
    expected = {key.removeprefix(f"{name}."): x for key, x in every.items() if key.startswith(f"{name}.")}
    sampler = Ddim(len(expected["x"]))
    model, steps = BinaryModel("", 4, sampler, unet), sampler.run()
    if "alphas_cumprod" in expected:
        assert np.abs(sampler.alphas() - expected["alphas_cumprod"].numpy()).max() < 1e-7
    assert [step.timestep for step in steps] == expected["timesteps"].tolist()
    built, lr = build_model(model), 2 * expected["lr"] - 1
    assert relative_error(expected["cond"], model.condition(lr)) <= TOLERANCE
    parts = [part.module for part in built.parts]
    assert relative_error(expected["cond"], parts[0].condition(lr)) <= TOLERANCE
    height, width = expected["cond"].shape[2:]
    condition = torch.nn.functional.pad(expected["cond"], (0, -width % 8, 0, -height % 8), "reflect")
    free = {"reference": expected["noise"], "parts": expected["noise"]}
    for n, (step, part) in enumerate(zip(steps, parts, strict=True)):
        x, eps = expected["x"][n : n + 1], expected["eps"][n : n + 1]
        assert relative_error(eps, unet(torch.cat([condition, x], dim=1), step.timestep)) <= TOLERANCE
        assert relative_error(eps, part.network(condition, x)) <= TOLERANCE
        if step is not steps[-1]:
            after = expected["x"][n + 1 : n + 2]
            assert relative_error(after, model.next(step, condition, x)) <= TOLERANCE
            assert relative_error(after, part.next(condition, x)) <= TOLERANCE
        free["reference"] = model.next(step, condition, free["reference"])
        free["parts"] = part.next(condition, free["parts"])
    free["parts"] = (free["parts"] + 1) / 2
    for who, found in free.items():
        quality = psnr(found[:, :, :height, :width], expected["image"])
        print(f"{name}, {who}: picture {quality:.1f} dB from theirs")
        assert quality >= 60


@torch.no_grad()
def test_every_step_is_the_reference_for_any_size_and_batch(loaded: Model, model: Path) -> None:
    original = read_model(model)
    exact = replace(original, unet=original.unet.double())
    sources = {name: x.double() for name, x in smooth_sources(loaded.parts, (32, 80), 2, seed=3).items()}
    assert set(sources) == {"lr", "noise"}
    tensors = {**sources, **exact.reference(sources)}
    for part in load_model(model).parts:
        part.module.double()
        assert relative_error(tensors[part.output.name], part.run(tensors)) <= TOLERANCE, part.name
        assert loaded.errors[part.name] <= TOLERANCE


@torch.no_grad()
def test_codes_of_signs_lose_nothing(loaded: Model) -> None:
    """But for what another order of summing decides: codes −1, 0, 1 stand for the very numbers."""
    part, spec = loaded.parts[1], QuantSpec()
    rows = known_rows(part, spec)
    binary = {named.name for named in part.sites() if isinstance(named.site, SignConv)}
    assert set(rows.sites) == binary and binary
    assert not binary & {named.name for named in quantized_sites(part, spec)}
    fakes = fake_quantizers(part, rows)
    for named in part.sites():
        if named.name in binary:
            weight, _bias = fakes[named.site](named.site)
            assert fakes[named.site].codes.unique().tolist() in ([-1, 1], [-1, 0, 1])
            assert torch.equal(weight, named.site.weight)
    sources = smooth_sources(loaded.parts, (32, 48))
    tensors = {**sources, **loaded.run(sources)}
    reference = part.run(tensors)
    with attached(fakes):
        assert relative_error(reference, part.run(tensors)) <= 1e-6 + reaction(part, tensors, reference)


@torch.no_grad()
def test_codes_of_signs_lose_nothing_in_fp8(loaded: Model) -> None:
    part, spec = loaded.parts[1], QuantSpec()
    calibration = Calibration("", spec, "", known_rows(part, spec))
    quant = to_format(calibration, [part], FP8_CODES).quant
    fakes, x = fake_quantizers(part, quant), torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    assert set(quant.sites) == set(calibration.quant.sites)
    for named in part.sites():
        if named.name in quant.sites:
            assert torch.equal(fakes[named.site](named.site)[0], named.site.weight)
            assert torch.equal(fakes[named.site.port](x), x)


def test_exclude_keeps_a_sign_convolution_float(loaded: Model) -> None:
    name = "unet_2.downs.1.block1.conv.signs.conv"
    rows = known_rows(loaded.parts[1], QuantSpec(exclude=(name,)))
    assert name not in rows.sites and name in known_rows(loaded.parts[1], QuantSpec()).sites


def test_a_wrong_group_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from passionsr_trt.export.families.bidiffsr import unet

    right = unet.move_of
    monkeypatch.setattr(unet, "move_of", lambda conv, group: right(conv, group) + 0.05)
    with pytest.raises(FoldError, match="unet_3: its output changed"):
        build_model(read_model(model))


def test_steps_share_binary_weights(loaded: Model) -> None:
    kept = [{path: site.weight for path, site in part.module.named_modules() if isinstance(site, SignConv)}
            for part in loaded.parts]  # fmt: skip
    assert kept[0] and all(own[path] is kept[0][path] for own in kept for path in kept[0])


@pytest.mark.parametrize(("steps", "expected"), [(1, "steps is 1"), (101, "steps is 101"), (0, "steps is 0")])
def test_steps_that_are_none_are_refused(steps: int, expected: str) -> None:
    with pytest.raises(UserError, match=f"bidiffsr: {expected}"):
        Ddim(steps)


def test_files_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_small(tmp_path)
    words = ["import-model", "--family", NAME, "-o", str(tmp_path / "model")]
    assert main(words) == 2
    assert "expected --unet" in capsys.readouterr().err
    state = torch.load(path, weights_only=True)["params"]
    hole = "mid.1.res_block.block1.conv.binary_conv.weight"
    plain = {key: x for key, x in state.items() if not key.endswith("binary_conv.weight")}
    for name, content, stated in (
        ("plain", plain, "no binary convolution in it"),
        ("hole", {key: x for key, x in state.items() if key != hole}, "no BIDiffSRUNet"),
        ("few", {key: x for key, x in state.items() if "downs.0" not in key}, "downs.0.weight is missing"),
    ):
        torch.save({"params_ema": content}, tmp_path / f"{name}.pth")
        assert main([*words, "--unet", str(tmp_path / f"{name}.pth"), "--norm-groups", "4"]) == 1, name
        assert stated in capsys.readouterr().err
    assert main([*words, "--unet", str(path), "--norm-groups", "5"]) == 1
    assert "16 channels in 5 groups" in capsys.readouterr().err


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated by one picture, exported with and without codes, engines of the former."""

    def make(out: Path) -> None:
        words = ["calibrate", str(model), "--images", str(TINY), "--limit", "1", "--method", "search"]
        assert main([*words, "--cache", str(out / "cache")]) == 0
        assert main(["export", str(model), "--cache", str(out / "cache"), "-o", str(out / "onnx")]) == 0
        assert main(["export", str(model), "--float", "-o", str(out / "float")]) == 0
        assert main(["build-engines", str(out / "onnx"), "-o", str(out / "engines"), "--require-int8", "1.0"]) == 0

    return made_once(tmp_path_factory, "bidiffsr_built", make)


@pytest.mark.accept
def test_graphs_of_steps_are_the_float_models(built: Path, loaded: Model) -> None:
    bundle = OnnxBundle.load(built / "float")
    sources = smooth_sources(loaded.parts, (48, 32), seed=5)
    tensors = {**sources, **loaded.run(sources)}
    for part, own in zip(bundle.parts, loaded.parts, strict=True):
        feed = {tensor.name: tensors[tensor.name].numpy() for tensor in part.inputs}
        found = torch.from_numpy(run_reference(bundle.open(part), feed))
        reference = tensors[part.output.name]
        assert relative_error(reference, found) <= TOLERANCE + 3 * reaction(own, tensors, reference), part.name


@pytest.mark.accept
def test_every_binary_site_has_its_codes_in_graph_and_engine(built: Path, loaded: Model) -> None:
    engines = EngineBundle.load(built / "engines")
    for part in engines.parts:
        coverage = engines.coverage[part.name]
        assert coverage.sites_int8 == coverage.sites_quantized == len(part.sites) - 2, part.name
    graph = onnx.load(built / "onnx" / "unet_2.onnx").graph
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    for named in loaded.parts[1].sites():
        if isinstance(named.site, SignConv):
            assert constants[nodes[port_node(named.port_name, QUANTIZE)].input[1]] == 1
            codes = constants[nodes[weight_node(named.name)].input[0]]
            assert codes.dtype == np.int8 and set(np.unique(codes)) <= {-1, 0, 1}


@needs_rtx
@pytest.mark.accept
def test_every_step_is_int8_in_tensorrt_rtx(built: Path, tmp_path: Path) -> None:
    words = ["build-engines", str(built / "onnx"), "-o", str(tmp_path / "rtx"), "--backend", "tensorrt-rtx"]
    assert main([*words, "--compute-capability", "8.9", "--require-int8", "1.0"]) == 0


@pytest.mark.accept
def test_pictures_of_odd_size_whole_tiled_and_seeded(built: Path, loaded: Model, tmp_path: Path) -> None:
    photo = Image.open(DEMO / "calib" / "lr" / "000.png").convert("RGB").crop((0, 0, 45, 61))
    photo.save(tmp_path / "photo.png")
    made = {}
    for name, engines, options in (
        ("whole", "engines", []),
        ("other", "engines", ["--seed", "1"]),
        ("tiled", "engines", ["--tile", "128", "--overlap", "32"]),
        ("float", "float", ["--provider", "cpu"]),
    ):
        out = tmp_path / f"{name}.png"
        words = ["infer", str(tmp_path / "photo.png"), "-o", str(out), "--engines", str(built / engines)]
        assert main([*words, *options]) == 0
        made[name] = np.asarray(Image.open(out), float)
    assert {picture.shape for picture in made.values()} == {(244, 180, 3)}
    assert np.abs(made["other"] - made["whole"]).mean() > 1
    sources = {"lr": np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1}
    sources["noise"] = noise(0, (1, 3, 244, 180), "noise")
    multiple = loaded.parts[0].multiple
    assert 244 % multiple == 180 % multiple == 0, "nothing is padded"
    picture = loaded.run({name: torch.from_numpy(x) for name, x in sources.items()})["picture"]
    expected = (picture[0].clamp(-1, 1) + 1).mul(127.5).round().permute(1, 2, 0).double().numpy()
    assert np.abs(made["float"] - expected).mean() < 0.5, "but for signs"
    assert 0 < np.abs(made["whole"] - expected).mean() < np.abs(made["other"] - expected).mean()
