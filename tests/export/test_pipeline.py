"""DQC: block by block, resumed, with recomputed activations, and SmoothQuant through the same door."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate import trainer
from passionsr_trt.export.calibrate.blocks import Pairs, blocks_in_order
from passionsr_trt.export.calibrate.compute import ALONE
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.calibrate.learners import learned_ports
from passionsr_trt.export.calibrate.pipeline import CROP, calibrate
from passionsr_trt.export.calibrate.steps.learn_boundaries import LearnBoundaries
from passionsr_trt.export.calibrate.steps.search import search
from passionsr_trt.export.calibrate.trainer import PartTrainer, Saved, TrainingStage, only, recomputing
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.part import Model
from passionsr_trt.export.model.proof import relative_error
from passionsr_trt.export.quantize.calibration import Calibration, tensors_of
from passionsr_trt.export.quantize.values import PartQuant

from tests.conftest import TINY
from tests.helpers import quantized_chain

FILES = calibration_files(TINY, 2)


@pytest.fixture(scope="module")
def model(small_model: Path) -> Model:
    return load_model(small_model)


def quantization_error(folder: Path, calibration: Calibration) -> float:
    """Relative error of the fake-quantized chain on a photo."""
    model = load_model(folder)
    (sources,) = crops([load_sources(FILES[0], model)], model, 0, CROP)
    expected = model.run(sources)["image_out"]
    return relative_error(expected, quantized_chain(model.parts, calibration, sources)["image_out"])


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize(("granularity", "rounding"), [("module", "second_order"), ("block", "nearest")])
def test_an_interrupted_calibration_goes_on_and_ends_the_same(
    model: Model, granularity: str, rounding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"let_steps": 2, "lbq_steps": 2, "correction_steps": 2}
    spec = QuantSpec(method="learned", granularity=granularity, rounding=rounding, pictures="photos", **steps)
    whole = calibrate(model, spec, FILES)
    ran: list[str] = []
    run_stage = trainer.run_stage

    def interrupted(module: torch.nn.Module, stage: TrainingStage, title: str, *rest: object) -> None:
        if title.startswith("vae_decoder") and stage.name == "LBQ" and len(ran) > 5:
            raise KeyboardInterrupt
        ran.append(f"{title} {stage.name}")
        run_stage(module, stage, title, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "run_stage", interrupted)
    ran += [""] * 5 if granularity == "module" else []
    partial = tmp_path / "partial"
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, spec, FILES, partial=partial)
    assert sorted(path.stem for path in partial.iterdir()) == ["unet", "vae_decoder", "vae_encoder"]
    monkeypatch.setattr(trainer, "run_stage", lambda *args: (ran.append("again"), run_stage(*args)))
    before = len(ran)
    assert whole.quant == calibrate(model, spec, FILES, partial=partial).quant
    assert 0 < len(ran) - before < before
    assert not partial.exists()


def test_a_range_is_that_of_the_users_pictures(model: Model) -> None:
    """Over drawn ones too it lost 9 dB on photos."""
    photos = QuantSpec(method="range", activation_observer="minmax")
    narrow, wide = (
        calibrate(model, replace(photos, pictures=which, synthetic=0.6), FILES).quant
        for which in ("photos", "any")
    )
    assert narrow == wide


@pytest.mark.usefixtures("few_candidates")
def test_a_damaged_partial_result_is_learned_anew(model: Model, tmp_path: Path) -> None:
    spec = QuantSpec(method="learned", let_steps=1, lbq_steps=1, correction_steps=2, rounding="nearest")
    (tmp_path / "vae_encoder.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    assert calibrate(model, spec, FILES).quant == calibrate(model, spec, FILES, partial=tmp_path).quant


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("granularity", ["module", "block"])
def test_recomputing_activations_changes_nothing(model: Model, granularity: str) -> None:
    steps = {"let_steps": 2, "lbq_steps": 2, "correction_steps": 2, "accumulate": 2}
    learned = QuantSpec(method="learned", granularity=granularity, pictures="photos", **steps)  # type: ignore[arg-type]
    spec = replace(learned, rounding="nearest")  # a rounding of what differs in its last digit may fall either way
    plain, low = (calibrate(model, spec, FILES, low_memory=on) for on in (False, True))
    tensors = tensors_of(low.quant)
    for key, value in tensors_of(plain.quant).items():
        torch.testing.assert_close(tensors[key], value, rtol=1e-4, atol=1e-6)


def test_recomputing_keeps_a_fraction_for_the_backward_pass(model: Model) -> None:
    part, x = model.part("vae_decoder"), torch.randn(1, 4, 8, 8, requires_grad=True)
    blocks = [block for _path, block in blocks_in_order(part, (x,))]

    def kept(recomputed: list[torch.nn.Module]) -> int:
        saved: list[torch.Tensor] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved.append(tensor)
            return tensor

        with recomputing(recomputed), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            part.module(x)
        return sum(tensor.nbytes for tensor in saved)

    assert 0 < kept(blocks) < kept([]) / 2


def test_accumulated_gradients_are_the_mean_of_their_crops(model: Model) -> None:
    """One step over the same crop twice is one step over it once; Adam's first step shows the sign alone,
    so the gradients are compared."""
    part = model.part("vae_decoder")
    torch.manual_seed(0)
    x, target = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64)
    gradients = []
    for accumulate in (1, 2):
        spec = QuantSpec(method="learned", let_steps=0, lbq_steps=1, correction_steps=2, accumulate=accumulate)
        pairs, seen = Pairs([(x,)], [target]), []  # type: tuple[Pairs, list[torch.Tensor]]

        class One(LearnBoundaries):
            def parameters(
                self, module: torch.nn.Module, _spec: QuantSpec, seen: list[torch.Tensor] = seen
            ) -> list[torch.nn.Parameter]:
                found = learned_ports(module)[0].log_boundary
                found.register_hook(lambda gradient: seen.append(gradient.clone()))
                return [found]

        with PartTrainer(part, spec, [(x,)], pairs, Saved(None, ALONE)) as training:
            search(training, PartQuant())
            training.run(part.module, One(), "t", pairs)
            gradients.append(sum(seen))
            assert len(seen) == accumulate
    torch.testing.assert_close(*gradients)


def test_only_what_learns_gets_gradients() -> None:
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="does not require grad"):
        with only([layer.bias], layer):
            layer(torch.ones(1, 2)).sum().backward()
            assert layer.weight.grad is None and layer.bias.grad is not None
            layer.weight.sum().backward()
    assert layer.weight.requires_grad


def test_blocks_come_in_the_order_they_run(model: Model) -> None:
    with torch.no_grad():
        names = [name for name, _block in blocks_in_order(model.part("unet"), (torch.randn(1, 4, 16, 16),))]
    assert names[0] == "conv_in" and names[-1] == "conv_out" and len(set(names)) == len(names)
    first, second = names.index("down_blocks.0.resnets.0"), names.index("down_blocks.0.attentions.0")
    assert second == first + 1


@pytest.mark.usefixtures("few_candidates")
def test_the_search_is_where_learning_starts(model: Model) -> None:
    found = calibrate(model, QuantSpec(method="search", pictures="photos"), FILES)
    steps = {"let_steps": 0, "lbq_steps": 0, "correction_steps": 0}
    start = calibrate(model, QuantSpec(method="learned", pictures="photos", **steps), FILES)  # type: ignore[arg-type]
    assert found.quant == start.quant and found.key != start.key


def test_smoothquant_scales_by_its_rule_and_shifts_nothing(model: Model) -> None:
    spec = QuantSpec(method="smoothquant", smooth_alpha=0.7, pictures="photos")
    result = calibrate(model, spec, FILES)
    shifts = [row.shift() for row in result.quant.ports.values() if row.let is not None]
    assert shifts and not any(bool(shift.any()) for shift in shifts if shift is not None)
    seen: list[torch.Tensor] = []
    site = model.part("vae_decoder").module.get_submodule("mid_block.resnets.0.conv1")
    handle = site.port.register_forward_pre_hook(lambda _port, args: seen.append(args[0]))  # type: ignore[union-attr,operator]
    for sources in crops([load_sources(path, model) for path in FILES], model, spec.seed, CROP):
        model.run(sources)
    handle.remove()
    reach = torch.cat(seen).abs().amax((0, 2, 3))
    expected = reach**0.7 / site.weight.abs().amax((0, 2, 3)) ** 0.3  # type: ignore[union-attr,operator]
    let = result.quant.ports["vae_decoder.mid_block.resnets.0.conv1"].let
    assert let is not None
    found = let.scale
    torch.testing.assert_close(found / found[0], expected / expected[0], rtol=1e-3, atol=1e-4)


def test_block_by_block_beats_the_search_alone(model: Model, small_model: Path) -> None:
    base = {
        "bits_weights": 6,
        "bits_activations": 6,
        "method": "learned",
        "granularity": "block",
        "pictures": "photos",
    }
    base["rounding"] = "nearest"  # what was learned, not what rounding makes of it
    searched, learned = (
        calibrate(model, QuantSpec(**base, let_steps=n, lbq_steps=n, correction_steps=2), FILES)  # type: ignore[arg-type]
        for n in (0, 20)
    )
    assert quantization_error(small_model, learned) < quantization_error(small_model, searched)
