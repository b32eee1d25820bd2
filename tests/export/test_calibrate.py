"""Calibration: which sites are quantized, and the artefact."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.user_cache import one_at_a_time
from passionsr_trt.export.calibrate.data import calibration_files
from passionsr_trt.export.calibrate.pipeline import calibrate
from passionsr_trt.export.calibrate.steps.observe import observing
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.weights import folder_digest
from passionsr_trt.export.model.part import Model
from passionsr_trt.export.quantize.calibration import Calibration, write_tensors
from passionsr_trt.export.quantize.chosen import quantized_sites
from passionsr_trt.export.quantize.values import SiteQuant
from passionsr_trt.runtime.main import main

from tests.helpers import applied, quantized_chain

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "demo" / "calib" / "lr"


@pytest.fixture
def model(small_model: Path) -> Model:
    return load_model(small_model)


def names(model: Model, part: str, spec: QuantSpec) -> set[str]:
    return {named.name for named in quantized_sites(model.part(part), spec)}


def test_first_last_and_narrow_convolutions_stay_float(model: Model) -> None:
    every = {named.name for named in model.part("unet").sites()}
    assert every - names(model, "unet", QuantSpec()) == {"unet.conv_in", "unet.conv_out"}
    kept = {named.name for named in model.part("vae_decoder").sites()}
    kept -= names(model, "vae_decoder", QuantSpec())
    assert kept == {"vae_decoder.post_quant_conv", "vae_decoder.conv_in", "vae_decoder.conv_out"}


def test_sites_of_one_port_are_quantized_together_or_not_at_all(model: Model) -> None:
    prefix = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    chosen = names(model, "unet", QuantSpec(exclude=(f"{prefix}.to_k",)))
    assert not {f"{prefix}.to_q", f"{prefix}.to_k", f"{prefix}.to_v"} & chosen
    assert f"{prefix}.to_out.0" in chosen


def test_a_spec_that_leaves_nothing_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match="every site float"):
        calibrate(model, QuantSpec(exclude=("*",)), calibration_files(IMAGES, 1))
    with pytest.raises(UserError, match=r"'unet.typo.\*' matches no site"):
        calibrate(model, QuantSpec(exclude=("unet.typo.*",)), calibration_files(IMAGES, 1))


def test_observing_takes_its_hooks_away_when_the_work_fails(model: Model) -> None:
    ports = {named.port_name: named.site.port for named in model.part("unet").sites()}
    with pytest.raises(RuntimeError, match="boom"), observing(ports):
        raise RuntimeError("boom")
    assert not any(port._forward_pre_hooks for port in ports.values())


def test_more_bits_are_closer_to_float(model: Model) -> None:
    files = calibration_files(IMAGES, 1)
    sources = {"image": torch.rand(1, 3, 64, 64) * 2 - 1}
    reference = model.run(sources)["image_out"]
    errors = []
    for bits in (8, 6, 4):
        spec = QuantSpec(bits_weights=bits, bits_activations=bits, method="range")
        calibration = calibrate(model, spec, files)
        assert all(calibration.of_part(part).sites for part in model.parts)
        found = quantized_chain(model.parts, calibration, sources)["image_out"]
        errors.append(float((found - reference).square().mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


def test_the_artefact_survives_a_round_trip_and_refuses_damage(model: Model, tmp_path: Path) -> None:
    calibration = calibrate(model, QuantSpec(method="range"), calibration_files(IMAGES, 1))
    folder = tmp_path / "calibration"
    calibration.save(folder)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    loaded = Calibration.load(folder)
    assert loaded.key == calibration.key and loaded.spec == calibration.spec
    assert loaded == calibration and loaded.digest == calibration.digest
    other = replace(loaded, quant=loaded.quant.map(lambda tensor: tensor * 1.5))
    assert other.key == calibration.key and other.digest != calibration.digest, "export tells them apart"
    data = folder / "calibration.safetensors"
    data.write_bytes(data.read_bytes()[:-1] + b"\x00")
    with pytest.raises(UserError, match="SHA-256 differs"):
        Calibration.load(folder)


def test_scales_of_another_number_of_rows_are_refused(small_model: Path) -> None:
    """One for every row of a phase too: a convolution in sub-pixel form has four times as many."""
    model = load_model(small_model)
    name = "vae_decoder.up_blocks.0.upsamplers.0.conv"
    own = calibrate(model, QuantSpec(method="range"), calibration_files(IMAGES, 1))
    scale = own.quant.sites[name].scale
    rows = {**own.quant.sites, name: SiteQuant(scale[: len(scale) // 4])}
    with pytest.raises(UserError, match=f"{name} does not fit this model"):
        applied(replace(own, quant=replace(own.quant, sites=rows)), model.part("vae_decoder"))


@pytest.mark.parametrize(("cache", "limit"), [("calib_cache", 127), ("calib_cache/no_vnni", 63)])
def test_the_committed_calibrations_are_the_demos(cache: str, limit: int) -> None:
    digests = {folder_digest(ROOT / "demo" / name) for name in ("model", "realesrgan")}
    found = [Calibration.load(path.parent) for path in (ROOT / cache).glob("*/manifest.json")]
    spec = QuantSpec(method="learned", weight_code_limit=limit)
    assert sorted(one.model_digest for one in found if one.spec == spec) == sorted(digests)


def test_a_calibration_is_written_to_a_folder_that_is_named_too(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("mine")
    words = [
        "calibrate",
        str(small_model),
        "--images",
        str(IMAGES),
        "--limit",
        "1",
        "--cache",
        str(tmp_path / "c"),
    ]
    words += ["--method", "range", "-o"]
    assert main([*words, str(foreign)]) == 1
    assert "holds other files" in capsys.readouterr().err and not (tmp_path / "c").exists(), "before the work"
    for _again in range(2):  # calibrated, then found
        assert main([*words, str(own)]) == 0
        assert f"next: passionsr-trt export {small_model} --calibration {own} -o" in capsys.readouterr().out
        (kept,) = (tmp_path / "c").glob("*/manifest.json")
        assert Calibration.load(own).digest == Calibration.load(kept.parent).digest
        shutil.rmtree(own)


def test_a_second_calibration_waits_and_finds_the_first_s(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(small_model), "--images", str(IMAGES), "--limit", "1", "--cache", str(tmp_path)]
    words += ["--method", "range"]
    assert main(words) == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    holding = threading.Event()

    def first() -> None:
        with one_at_a_time(folder, "calibrating"):
            holding.set()
            time.sleep(0.5)

    other = threading.Thread(target=first)
    other.start()
    holding.wait()
    assert main(words) == 0
    other.join()
    said = capsys.readouterr().out
    assert "another process is calibrating it; waiting" in said and "already calibrated" in said


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written .*expected room on the disk"):
        write_tensors({"a": torch.zeros(2)}, tmp_path / "absent" / "a.safetensors")
