"""ResShift in several steps: the authors' numbers, a part a step, shared weights, one tracing, every command."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.pictures import noise
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.resshift.chain import NAME, ResShiftModel, build_model
from passionsr_trt.export.families.resshift.family import read_model
from passionsr_trt.export.families.resshift.sampler import RELEASED, Step, Steps
from passionsr_trt.export.model.part import Model, Tensors, smooth_sources
from passionsr_trt.export.model.proof import TOLERANCE, FoldError, relative_error
from passionsr_trt.export.onnx.single_file import write_single_file
from passionsr_trt.export.onnx.to_onnx import run_reference
from passionsr_trt.runtime.main import main
from PIL import Image
from torch import Tensor

from tests.conftest import DEMO, TINY, made_once, needs_rtx
from tests.export.resshift import import_small
from tests.export.test_resshift import psnr

WEIGHTS = os.environ.get("RESSHIFT_SMALL")  # a folder: small_unet.pth, small_vq.pth
NUMBERS = os.environ.get("RESSHIFT_STEPS")  # a folder: expected.safetensors, of these weights
STEPS = 4  # the first, two that differ in constants alone, the last
TINIEST = {"levels": (1,), "vae_levels": (1, 1, 1)}
NAMES = ["vq_encoder", "unet_4", "unet_3", "unet_2", "unet_1", "vq_decoder"]
# √η as the authors' configurations give them, to the places that were written down
ROOT_ETAS = {
    15: ".02 .11717 .17630 .23363 .29157 .35101 .41236 .47586 .54167 .60991 .68066 .75399 .82995 .90861 .99",
    4: ".1 .52010 .76138 .99",
}


def import_steps(folder: Path) -> Path:
    return import_small(folder, steps=STEPS, **TINIEST)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder of four steps."""
    return made_once(tmp_path_factory, "resshift_steps", import_steps) / "model"


@pytest.fixture(scope="module")
def loaded(model: Path) -> Model:
    return load_model(model)


def test_schedules_are_the_authors() -> None:
    for steps, text in ROOT_ETAS.items():
        roots = Steps(2.0, RELEASED[steps], 0.99, 0.3, steps).root_etas()
        assert roots == pytest.approx([float(word) for word in text.split()], abs=6e-6)
    run = Steps(2.0, 0.2, 0.99, 0.3, 4).run()
    assert [step.name for step in run] == NAMES[1:5]
    assert [step.result for step in run] == ["x3", "x2", "x1", "x0"]
    assert [step.kept for step in run] == pytest.approx([0.59147, 0.46662, 0.03697, 0], abs=6e-6)
    assert [step.taken for step in run] == pytest.approx([0.40853, 0.53338, 0.96303, 1], abs=6e-6)
    assert [step.drawn**2 for step in run] == pytest.approx([0.94730, 0.57712, 0.03852, 0], abs=6e-6)


def test_schedules_that_are_none_are_refused() -> None:
    for values in ((0, 0.2, 0.99, 0.3, 4), (2, 0, 0.99, 0.3, 4), (2, 3, 0.99, 0.3, 4), (2, 0.2, 1.1, 0.3, 4)):
        with pytest.raises(UserError, match="resshift: "):
            Steps(*values)
    with pytest.raises(UserError, match="steps is 1"):
        Steps(2.0, 0.2, 0.99, 0.3, 1)


@pytest.mark.skipif(WEIGHTS is None or NUMBERS is None, reason="RESSHIFT_SMALL, RESSHIFT_STEPS name no numbers")
@pytest.mark.parametrize("name", ["s4", "s4_wide", "s15"])
@torch.no_grad()
def test_the_authors_own_trajectories_are_reproduced(name: str) -> None:
    """Teacher-forced, by the reference and by the folded parts; then free-running, codes counted."""
    from passionsr_trt.export.families.resshift.checkpoints import autoencoder_of, read_state, unet_of
    from safetensors.torch import load_file

    unet, vq = Path(WEIGHTS or "") / "small_unet.pth", Path(WEIGHTS or "") / "small_vq.pth"
    every = load_file(Path(NUMBERS or "") / "expected.safetensors")
    expected = {key.removeprefix(f"{name}."): x for key, x in every.items() if key.startswith(f"{name}.")}
    sampler = Steps(2.0, 0.04 if name == "s15" else 0.2, 0.99, 0.3, len(expected["noise"]))
    original = ResShiftModel(
        "", sampler, unet_of(read_state(unet, "unet"), unet), autoencoder_of(read_state(vq, "autoencoder"), vq)
    )
    built, steps, x = build_model(original), sampler.run(), expected["x"]
    assert sampler.root_etas() == pytest.approx(expected["sqrt_etas"].tolist(), rel=1e-12)
    sources = {"lr": every["lr_wide" if name == "s4_wide" else "lr"], "noise": expected["noise"][:1]}
    sources |= {step.noise: expected["noise"][n][None] for n, step in enumerate(steps, 1) if step.drawn}
    assert relative_error(expected["z_y"], original.encode(sources["lr"])) <= TOLERANCE
    assert relative_error(x[:1], original.start(expected["z_y"], sources["noise"])) <= TOLERANCE
    for n, step in enumerate(steps):
        given = {**sources, built.part(step.name).inputs[0].name: x[n][None], "z_y": expected["z_y"]}
        x0 = original.denoise(step, x[n][None], sources["lr"])
        assert relative_error(expected["pred_x0"][n][None], x0) <= TOLERANCE
        assert relative_error(x[n + 1][None], original.next(step, x[n][None], sources)) <= TOLERANCE
        assert relative_error(x[n + 1][None], built.part(step.name).run(given)) <= TOLERANCE
    book = built.part("vq_decoder").module.codebook
    for who, found in (("reference", original.reference(sources)), ("parts", built.run(sources))):
        flips = int((book.search(found["x0"]).flatten() != expected["codes"].flatten()).sum())
        error = relative_error(x[-1:], found["x0"])
        print(f"{name}, {who}: x0 {error:.1e} from theirs, {flips} of {expected['codes'].numel()} codes", end=" ")
        assert error <= 1e-3 and flips <= 2
    if "image" in expected:
        decoded = built.part("vq_decoder").run({"x0": x[-1:]})
        print(f"picture {psnr(found['picture'], expected['image']):.1f} dB, of their x0 ", end="")
        print(f"{psnr(decoded, expected['image']):.1f} dB")
        assert psnr(decoded, expected["image"]) >= 60
        assert flips or psnr(found["picture"], expected["image"]) >= 60


@torch.no_grad()
def test_every_step_is_the_reference_for_any_size_and_batch(loaded: Model, model: Path) -> None:
    original = read_model(model)
    sources = smooth_sources(loaded.parts, (64, 160), 2, seed=3)
    assert set(sources) == {"lr", "noise", "noise_4", "noise_3", "noise_2"}
    tensors = {**sources, **original.reference(sources)}
    for part in loaded.parts[:-1]:
        assert relative_error(tensors[part.output.name], part.run(tensors)) <= TOLERANCE, part.name
        assert loaded.errors[part.name] <= TOLERANCE


def test_steps_share_what_no_constant_changes(loaded: Model) -> None:
    own = [dict(part.module.named_parameters()) for part in loaded.parts[1:-1]]
    shared = {key for key in own[1] if all(other.get(key) is own[1][key] for other in own)}
    bytes_of = {key: tensor.numel() for key, tensor in own[1].items()}
    changed = set(own[1]) - shared
    assert {key for key in changed if not key.startswith("input_blocks.0.0.")} == {
        key for key in own[1] if ".out_layers.0." in key
    }
    assert sum(bytes_of[key] for key in changed) < sum(bytes_of.values()) / 20


def test_a_wrong_gain_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from passionsr_trt.export.families.resshift import unet

    right = unet.columns

    def wrong(weight: Tensor, channels: int, step: Step, reads_start: bool) -> Tensor:
        return right(weight, channels, replace(step, noise_gain=1.05 * step.noise_gain), reads_start)

    monkeypatch.setattr(unet, "columns", wrong)
    with pytest.raises(FoldError, match="unet_4: its output changed"):
        build_model(read_model(model))


def test_noise_is_of_the_seed_and_its_own_name() -> None:
    shape = (1, 3, 8, 8)
    plain = np.random.default_rng(7).standard_normal(shape, dtype=np.float32)
    assert np.array_equal(noise(7, shape), plain) and np.array_equal(noise(7, shape, "noise"), plain)
    drawn = [noise(seed, shape, name) for seed in (7, 8) for name in ("noise", "noise_2", "noise_15")]
    for index, one in enumerate(drawn):
        assert all(abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.3 for other in drawn[:index])
    assert np.array_equal(drawn[1], noise(7, shape, "noise_2"))


def test_options_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import-model", "--family", NAME, "--unet", "a.pth", "--autoencoder", "b.pth", "-o"]
    for more, reason in (
        (["--steps", "7"], "expected 15 or 4, or --min-noise too"),
        (["--min-noise", "0.2"], "--steps 15 or 4"),
    ):
        capsys.readouterr()
        assert main([*words, str(tmp_path / "model"), *more]) == 2
        assert reason in capsys.readouterr().err


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned, exported, built for OpenVINO: onnx, float and engines."""

    def make(out: Path) -> None:
        spec, cache = out / "spec.json", str(out / "cache")
        steps = {"let_steps": 1, "lbq_steps": 1, "correction_steps": 1}
        spec.write_text(json.dumps({"method": "learned", "pictures": "photos", **steps}))
        words = ["calibrate", str(model), "--images", str(TINY), "--limit", "1", "--spec", str(spec)]
        assert main([*words, "--cache", cache]) == 0
        assert main(["export", str(model), "--cache", cache, "-o", str(out / "onnx")]) == 0
        assert main(["export", str(model), "--float", "-o", str(out / "float")]) == 0
        assert main(["build-engines", str(out / "onnx"), "-o", str(out / "engines")]) == 0

    return made_once(tmp_path_factory, "resshift_steps_built", make)


@pytest.mark.accept
def test_graphs_of_steps_are_the_float_models(built: Path, loaded: Model) -> None:
    """Under ONNX Runtime as written; the second step between is the first's graph with other constants."""
    bundle = OnnxBundle.load(built / "float")
    assert [part.name for part in bundle.parts] == NAMES
    sources = smooth_sources(loaded.parts, (96, 64), seed=5)
    tensors: Tensors = {**sources, **loaded.run(sources)}
    for part in bundle.parts[1:-1]:
        feed = {tensor.name: tensors[tensor.name].numpy() for tensor in part.inputs}
        found = torch.from_numpy(run_reference(bundle.open(part), feed))
        assert relative_error(tensors[part.output.name], found) <= TOLERANCE, part.name
    graphs = [onnx.load(bundle.open(part)).graph for part in bundle.parts[2:4]]
    kinds = [[node.op_type for node in graph.node] for graph in graphs]
    assert kinds[0] == kinds[1]
    for graph, part in zip(graphs, bundle.parts[2:4], strict=True):
        assert {site.name for site in part.sites} <= {node.name for node in graph.node}
        assert [value.name for value in graph.input] == [tensor.name for tensor in part.inputs]
        assert {constant.name for constant in graph.initializer} >= {"kept", "taken", "drawn"}


@pytest.mark.accept
def test_every_step_is_int8_in_openvino(built: Path) -> None:
    engines = EngineBundle.load(built / "engines")
    for part in engines.parts:
        coverage = engines.coverage[part.name]
        assert coverage.sites_int8 == coverage.sites_quantized == len(part.sites) - 2, part.name
    graphs = [onnx.load(built / "onnx" / f"{name}.onnx").graph for name in NAMES[1:5]]
    scales = [{x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer} for graph in graphs]
    keys = [key for key in scales[0] if key.endswith("port.scale")]
    assert keys and all(len({float(own[key]) for own in scales}) == STEPS for key in keys), "scales of their own"


@pytest.mark.accept
def test_memory_and_work_are_those_of_all_steps(built: Path) -> None:
    from passionsr_trt.runtime.backends.loading import load_engines
    from passionsr_trt.runtime.core.observing import plan_of
    from passionsr_trt.runtime.core.planning import Options, need

    chain = load_engines(built / "engines")
    work = plan_of(chain, (64, 64), Options()).works
    assert list(work) == NAMES and work["unet_3"] == work["unet_2"]
    coverage = EngineBundle.load(built / "engines").coverage
    assert all(coverage[name].activation_bytes for name in NAMES)
    larger = need((512, 512), chain, None) - need((256, 256), chain, None)
    assert larger > 0.75 * sum(figures.activation_bytes for figures in coverage.values())
    chain.close()


@needs_rtx
@pytest.mark.accept
def test_every_step_is_int8_in_tensorrt_rtx(built: Path, tmp_path: Path) -> None:
    words = ["build-engines", str(built / "onnx"), "-o", str(tmp_path / "rtx"), "--backend", "tensorrt-rtx"]
    assert main([*words, "--compute-capability", "8.9", "--require-int8", "1.0"]) == 0


@pytest.mark.accept
def test_pictures_of_any_size_whole_tiled_and_seeded(built: Path, loaded: Model, tmp_path: Path) -> None:
    photo = Image.open(DEMO / "calib" / "lr" / "000.png").convert("RGB").crop((0, 0, 45, 61))
    photo.save(tmp_path / "photo.png")
    made = {}
    for name, options in {
        "whole": [],
        "other": ["--seed", "1"],
        "tiled": ["--tile", "128", "--overlap", "32"],
    }.items():
        out = tmp_path / f"{name}.png"
        words = ["infer", str(tmp_path / "photo.png"), "-o", str(out), "--engines", str(built / "engines")]
        assert main([*words, *options]) == 0
        made[name] = np.asarray(Image.open(out), float)
    assert {picture.shape for picture in made.values()} == {(244, 180, 3)}
    assert np.abs(made["other"] - made["whole"]).mean() > 1
    assert 0 < np.abs(made["tiled"] - made["whole"]).mean() < 30
    multiple = max(part.multiple for part in loaded.parts) // 4
    right, below = -45 % multiple, -61 % multiple
    lr = np.pad(np.asarray(photo), ((0, below), (0, right), (0, 0)), "reflect").transpose(2, 0, 1)[None]
    shape = (1, 3, 61 + below, 45 + right)
    drawn = {name: noise(0, shape, name) for name in ("noise", "noise_4", "noise_3", "noise_2")}
    sources: dict[str, Tensor] = {name: torch.from_numpy(x) for name, x in drawn.items()}
    picture = loaded.run({"lr": torch.from_numpy(lr) / 127.5 - 1, **sources})["picture"]
    expected = (picture[0, :, :244, :180].clamp(-1, 1) + 1).mul(127.5).round().permute(1, 2, 0).double().numpy()
    words = ["infer", str(tmp_path / "photo.png"), "-o", str(tmp_path / "float.png")]
    assert main([*words, "--engines", str(built / "float"), "--provider", "cpu"]) == 0
    assert np.abs(np.asarray(Image.open(tmp_path / "float.png"), float) - expected).mean() < 0.5, "but for codes"
    assert 0 < np.abs(made["whole"] - expected).mean() < np.abs(made["other"] - made["whole"]).mean()


@pytest.mark.accept
def test_a_chain_of_steps_is_one_file_with_an_input_for_each_noise(built: Path, tmp_path: Path) -> None:
    write_single_file(OnnxBundle.load(built / "float"), tmp_path / "chain.onnx")
    inputs = onnx.load(tmp_path / "chain.onnx").graph.input
    assert [value.name for value in inputs] == ["lr", "noise", "noise_4", "noise_3", "noise_2"]
