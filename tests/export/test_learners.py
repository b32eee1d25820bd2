"""LBQ and LET: gradients, and a calibration that learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.calibrate.learners import LearnedPort, learned_quantize
from passionsr_trt.export.calibrate.pipeline import CROP, calibrate
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model import absorb
from passionsr_trt.export.model.proof import TOLERANCE, FoldError, relative_error
from passionsr_trt.export.model.sites import NamedSite
from passionsr_trt.export.quantize import fold
from passionsr_trt.export.quantize.grids import fake_quantize

from tests.conftest import TINY
from tests.helpers import applied, quantized_chain

VALUES = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40).map(torch.tensor)


@settings(deadline=None)
@given(VALUES, st.floats(0.1, 10), st.sampled_from([4, 6, 8]))
def test_the_boundary_gradient_is_the_papers(x: torch.Tensor, boundary: float, bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    u = torch.tensor(boundary, requires_grad=True)
    result = learned_quantize(x, u / high, low, high)
    torch.testing.assert_close(result.detach(), fake_quantize(x, u.detach() / high, low, high))
    result.sum().backward()
    scaled = x / (u.detach() / high)
    codes = torch.clamp(torch.round(scaled), low, high)
    inside = (torch.round(scaled) >= low) & (torch.round(scaled) <= high)
    # ∂Q/∂u = code/high − x/u inside, code/high outside
    expected = (codes / high - torch.where(inside, x / u.detach(), torch.zeros_like(x))).sum()
    torch.testing.assert_close(u.grad, expected, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_x_is_one_inside_and_zero_outside() -> None:
    x = torch.tensor([0.3, -0.7, 5.0, -5.0], requires_grad=True)
    learned_quantize(x, torch.tensor(1 / 127), -128, 127).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 0, 0]


def test_a_following_boundary_covers_the_transformed_range() -> None:
    lows, highs = torch.tensor([0.0, -2.0]), torch.tensor([4.0, 2.0])
    port = LearnedPort(2, (-128, 127), 4).begin(lows, highs, torch.tensor([1.0, 4.0]), (lows + highs) / 2)
    assert float(port.boundary().detach()) == 2.0
    x = torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2).expand(1, 2, 1, 2)
    assert float(port.transform(x).detach()[0, 0].abs().max()) == 2.0


# six bits go through the same code; test_image_networks.py learns with six
@pytest.mark.parametrize("bits", [8, pytest.param(6, marks=pytest.mark.accept)])
def test_learning_beats_the_observers_and_folds_exactly(small_model: Path, bits: int) -> None:
    files = calibration_files(TINY, 2)
    width = {"bits_weights": bits, "bits_activations": bits, "pictures": "photos"}
    steps = {"let_steps": 8, "lbq_steps": 8, "correction_steps": 8}
    learned = QuantSpec(**width, **steps, method="learned")  # type: ignore[arg-type]
    errors = {}
    for name, spec in (("range", QuantSpec(**width, method="range")), ("learned", learned)):  # type: ignore[arg-type]
        model = load_model(small_model)
        images = crops([load_sources(path, model) for path in files], model, 0, CROP)
        result = calibrate(model, spec, files)
        expected = [model.run(image)["image_out"] for image in images]
        with torch.no_grad():
            before, twin = model.run(images[0]), load_model(small_model)
            for part in twin.parts:
                assert applied(result, part, before).sites
                assert relative_error(before[part.output.name], part.run(before)) <= TOLERANCE
        errors[name] = 0.0
        for image, exact in zip(images, expected, strict=True):
            found = quantized_chain(load_model(small_model).parts, result, image)["image_out"]
            errors[name] += relative_error(exact, found) / len(images)
    assert errors["learned"] < errors["range"]


@pytest.mark.usefixtures("few_candidates")
def test_learning_is_repeatable_and_leaves_the_parts_alone(small_model: Path) -> None:
    model = load_model(small_model)
    files = calibration_files(TINY, 2)
    spec = QuantSpec(method="learned", let_steps=2, lbq_steps=2, correction_steps=2, pictures="photos")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model.parts[0].module(image)
    first, second = (calibrate(model, spec, files) for _ in range(2))
    assert first.quant == second.quant
    with torch.no_grad():
        assert torch.equal(model.parts[0].module(image), before)


def test_a_wrong_let_fold_is_refused_and_names_its_port(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(small_model)
    spec = QuantSpec(method="learned", unabsorbed_gain=0.0, let_steps=0, lbq_steps=0, correction_steps=0)
    learned = calibrate(model, spec, calibration_files(TINY, 1))
    # a conv2 feeds a residual sum; after conv1 a norm would hide a wrong gain
    rows = learned.of_part(model.part("vae_encoder")).ports
    port = next(name for name, row in rows.items() if name.endswith(".conv2") and row.let is not None)

    def wrong(sites: list[NamedSite], *rest: object) -> None:
        absorb.fold_port(sites, *rest)  # type: ignore[arg-type]
        if sites[0].name == port:
            sites[0].site.scale_output(1.01)

    monkeypatch.setattr(fold, "fold_port", wrong)
    with pytest.raises(FoldError, match=port):
        applied(learned, model.part("vae_encoder"), {"image": torch.rand(1, 3, 64, 64)})
