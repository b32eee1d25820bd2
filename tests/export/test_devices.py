"""Every tensor of a calibration and of an export is made on the device that was chosen, also where none is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate import learners, pipeline, placement, trainer
from passionsr_trt.export.calibrate.blocks import outermost_blocks
from passionsr_trt.export.calibrate.compute import Compute
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.calibrate.pipeline import calibrate
from passionsr_trt.export.calibrate.sensitivity import Probe
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.devices import on_device, working_on
from passionsr_trt.export.model.part import Model, Part
from passionsr_trt.export.onnx import bundle
from passionsr_trt.export.onnx.to_onnx import ExportPlan
from passionsr_trt.export.quantize.calibration import Calibration, tensors_of
from passionsr_trt.export.quantize.values import PartQuant
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes

from tests.conftest import TINY, made_once
from tests.export import networks, resshift
from tests.helpers import applied, faked
from tests.pretended_device import DEVICE, HOST, PretendedDevice, There

FILES = calibration_files(TINY, 1)
RANGE = {"method": "range"}
LEARNED = {"method": "learned", "let_steps": 1, "lbq_steps": 1, "correction_steps": 1, "pictures": "photos"}


@pytest.fixture(scope="module")
def models(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of every family, and networks whose attention makes masks as it runs."""
    folder = made_once(tmp_path_factory, "device_models", write)
    names = {name: folder / f"{name}.safetensors" for name in ("SwinIR", "Compact", "HAT", "DAT")}
    return {"stable-diffusion": small_model, "resshift": folder / "model", **names}


def write(folder: Path) -> None:
    resshift.import_small(folder)
    for name in ("SwinIR", "Compact", "HAT", "DAT"):
        networks.write_small(name, folder / f"{name}.safetensors")


@pytest.fixture(autouse=True)
def small_crops(few_candidates: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CROP", 64)
    monkeypatch.setattr(trainer, "SEARCH_CROP", 64)


def calibrated(model: Model, spec: QuantSpec, device: torch.device) -> Calibration:
    with sdpa_kernel(SDPBackend.MATH):  # what PyTorch chooses by the device is another sum
        return calibrate(model, spec, FILES, Compute(device))


NEAREST = {"rounding": "nearest"}  # the columns of second-order rounding take long in Python
SEARCHED = {**LEARNED, **NEAREST, "let_steps": 0, "lbq_steps": 0, "correction_steps": 0}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("stable-diffusion", RANGE),
    (
        "stable-diffusion",
        {**RANGE, "activation_observer": "percentile", "weight_observer": "dobi", "dobi_candidates": 4},
    ),
    ("stable-diffusion", {**LEARNED, **NEAREST}),
    ("stable-diffusion", SEARCHED),
    ("stable-diffusion", {"method": "smoothquant", **NEAREST}),
    ("resshift", {**LEARNED, **NEAREST}),
    ("resshift", SEARCHED),
    ("SwinIR", {**LEARNED, **NEAREST, "attention": True}),
    ("SwinIR", {**LEARNED, **NEAREST, "granularity": "block"}),
    ("HAT", RANGE),
    ("DAT", RANGE),
    ("Compact", LEARNED),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{name} {settings}" for name, settings in CASES])
def test_a_calibration_stays_on_its_device_and_finds_the_same(
    models: dict[str, Path], name: str, settings: dict[str, Any]
) -> None:
    spec = QuantSpec(**settings)
    model = load_model(models[name])
    expected = calibrated(model, spec, HOST)
    with PretendedDevice() as device:
        found = calibrated(model, spec, DEVICE)
        assert device.made > 100
    assert not any(on_the_device(part.module) for part in model.parts)
    assert tensors_of(found.quant).keys() == tensors_of(expected.quant).keys()
    if spec.method != "learned" or not spec.let_steps:  # gradients are added up in another order
        assert found.quant == expected.quant


def on_the_device(module: torch.nn.Module) -> list[str]:
    return [name for name, weight in module.named_parameters() if isinstance(weight, There)]


def test_a_large_part_has_one_block_on_the_device(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait on the host, while the part runs and while a block learns."""
    model = load_model(models["SwinIR"])
    (part,) = model.parts
    seen: list[set[str]] = []

    def note(_module: object, _gradients: object) -> None:
        seen.append(set(on_the_device(part.module)))

    blocks = outermost_blocks(part)
    inside = {name: path for block, path in blocks.items() for name in on_path(part.module, path)}
    handles = [block.register_forward_hook(lambda *_given: note(0, 0)) for block in blocks]
    monkeypatch.setattr(placement, "free_on", lambda _device: 1000)
    with PretendedDevice():
        calibrated(model, QuantSpec(**{**LEARNED, "granularity": "block"}), DEVICE)  # type: ignore[arg-type]
    for handle in handles:
        handle.remove()
    resident = [{inside[name] for name in names if name in inside} for names in seen]
    assert {len(paths) for paths in resident} == {1} and len({path for paths in resident for path in paths}) > 3
    assert not on_the_device(part.module)


def on_path(module: torch.nn.Module, path: str) -> list[str]:
    return [name for name, _weight in module.named_parameters() if f"{name}.".startswith(f"{path}.")]


def without_tracing(monkeypatch: pytest.MonkeyPatch, really: bool) -> None:
    """What is traced has to be on the host. Tracing takes long: one network is, `really`; of the others the part
    itself answers for its graph."""
    export_part, run_reference, handed = bundle.export_part, bundle.run_reference, []

    def traced(part: Part, quant: PartQuant, *rest: Any) -> None:
        assert not on_the_device(part.module)
        handed.append((part, quant))
        with _disable_current_modes():
            if really:
                export_part(part, quant, *rest)
            else:
                rest[2].write_bytes(b"")

    def answered(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
        part, quant = handed[-1]
        with _disable_current_modes(), faked(part, quant):
            if really:
                return run_reference(path, feed)
            found: np.ndarray = part.run({name: torch.from_numpy(array) for name, array in feed.items()}).numpy()
            return found

    monkeypatch.setattr(bundle, "export_part", traced)
    monkeypatch.setattr(bundle, "run_reference", answered)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("stable-diffusion", RANGE), ("resshift", RANGE), ("SwinIR", SEARCHED), ("Compact", LEARNED)],
)
def test_an_export_and_a_sensitivity_run_stay_on_their_device(
    models: dict[str, Path], name: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, probed = load_model(models[name]), load_model(models[name])
    calibration = calibrated(model, QuantSpec(**settings), HOST)
    without_tracing(monkeypatch, really=name == "Compact")
    images = crops([load_sources(path, probed) for path in FILES], probed, 0, 64)
    with PretendedDevice() as device:
        written = bundle.export_bundle(model, calibration, ExportPlan(), tmp_path / "bundle", device=DEVICE)
        assert device.made > 100
        with working_on(DEVICE, probed.parts):
            probe = Probe(probed, calibration, [on_device(image, DEVICE) for image in images])
            assert probe.psnr(probe.quantized_run) > 10
    assert any(site.quantized for part in written.parts for site in part.sites)


def test_folds_of_every_kind_stay_on_their_device(models: dict[str, Path]) -> None:
    """Into norms, rows and constant values, shifts and sub-pixel rows: the same weights as on the host."""
    calibration = calibrated(load_model(models["stable-diffusion"]), QuantSpec(**SEARCHED), HOST)  # type: ignore[arg-type]
    folded = []
    for device in (HOST, DEVICE):
        model = load_model(models["stable-diffusion"])
        with PretendedDevice(), working_on(device, model.parts):
            for part in model.parts:
                assert applied(calibration, part).sites
                assert part.device == device and {weight.device for weight in part.module.parameters()} == {device}
        folded.append({name: weight for part in model.parts for name, weight in part.module.state_dict().items()})
    assert all(torch.equal(weight, folded[1][name]) for name, weight in folded[0].items())


def test_a_constructor_that_forgets_the_device_is_caught(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above would say of a mistake."""

    def forgetful(self: learners.LearnedPort, x: torch.Tensor) -> torch.Tensor:
        return x * torch.ones(x.shape[1]).reshape(self.shape)

    model = load_model(models["Compact"])
    monkeypatch.setattr(learners.LearnedPort, "transform", forgetful)
    with PretendedDevice(), pytest.raises(RuntimeError, match="tensors on lazy:0 and cpu"):
        calibrated(model, QuantSpec(**LEARNED), DEVICE)  # type: ignore[arg-type]
