"""The sensitivity report, its budget, and what the command leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export import sensitivity_cli
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.calibrate.pipeline import calibrate
from passionsr_trt.export.calibrate.sensitivity import Probe
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.part import Model
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from passionsr_trt.export.quantize.values import PartQuant, PortQuant, SiteQuant
from passionsr_trt.runtime.main import main
from torch import nn

from tests.conftest import TINY
from tests.helpers import applied, lone_part

FILES = calibration_files(TINY, 2)


@pytest.fixture(scope="module")
def probe(small_model: Path) -> Probe:
    model = load_model(small_model)
    steps = {"let_steps": 0, "lbq_steps": 0, "correction_steps": 0}
    spec = QuantSpec(method="learned", bits_weights=6, bits_activations=6, pictures="photos", **steps)  # type: ignore[arg-type]
    calibration = calibrate(model, spec, FILES)
    return Probe(model, calibration, crops([load_sources(FILES[0], model)], model, 0, 64))


def test_the_extremes_are_the_float_and_the_quantized_chain(probe: Probe) -> None:
    everything = list(probe.ports)
    assert probe.without(everything) > 100
    quantized = probe.psnr(probe.quantized_run)
    assert probe.quantized(everything) == pytest.approx(quantized, abs=1e-3)
    assert probe.without([]) == pytest.approx(quantized, abs=1e-3)
    assert quantized < 60


def test_what_a_port_clips_is_counted_in_the_quantized_chain() -> None:
    steps = torch.tensor([0.0, 127.4, 127.6, 500, -128.4, -128.6, 3, 3, 3, 3]).reshape(1, 1, 2, 5)
    layers = nn.Sequential(*(SiteConv(torch.ones(1, 1, 1, 1), None) for _layer in range(2)))
    part = lone_part("part", layers, 1)
    first, second = (named.name for named in part.sites())
    ports = {first: PortQuant(torch.tensor(0.5)), second: PortQuant(torch.tensor(0.4))}
    quant = PartQuant(ports, {name: SiteQuant(torch.tensor([1 / 127])) for name in ports})
    model = Model("family", "digest", 1, "none", (part,), None)
    probe = Probe(model, Calibration("digest", QuantSpec(), "data", quant), [{"image": steps * 0.5}] * 2)
    # 3 of 10; their codes 127 and −128 are 158.75 and −160 of the second's: 3 above, 2 below
    assert probe.clipped == {first: pytest.approx(0.3), second: pytest.approx(0.5)}
    assert {entry.port: entry.clipped for entry in probe.report().ports} == probe.clipped


def test_a_budget_is_met_with_as_few_float_ports_as_the_ranking_allows(probe: Probe) -> None:
    decoder = [port for port in probe.ports if port.startswith("vae_decoder")]
    ranking = decoder + [port for port in probe.ports if port not in decoder]
    quantized = probe.psnr(probe.quantized_run)
    kept, psnr = probe.within_budget(ranking, quantized + 1.0)
    assert 0 < len(kept) < len(ranking) and psnr >= quantized + 1.0
    assert probe.without(kept[:-1]) < quantized + 1.0
    assert probe.within_budget(ranking, quantized - 1.0)[0] == []
    with pytest.raises(UserError, match="not a quantized port"):
        probe.within_budget(["unet.nothing"], 40.0)


def test_a_calibration_without_sites_exports_them_float(small_model: Path) -> None:
    model = load_model(small_model)
    decoder = model.part("vae_decoder")
    whole = calibrate(model, QuantSpec(method="range"), FILES[:1])
    site = "vae_decoder.mid_block.resnets.0.conv1"
    reduced = whole.without([site])
    assert reduced.key != whole.key and reduced.spec.exclude == (site,)
    quant = applied(reduced, decoder)
    assert whole.of_part(decoder).sites.keys() - quant.sites.keys() == {site} and site not in quant.ports
    assert decoder.module.get_submodule(site.removeprefix("vae_decoder.")) not in fake_quantizers(decoder, quant)


def test_the_command_writes_report_plot_and_calibration(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity_cli, "SENSITIVITY_CROP", 64)
    images, cache, output = str(TINY), str(tmp_path / "cache"), tmp_path / "out"
    words = ["--images", images, "--limit", "1", "--method", "range", "--cache", cache]
    assert main(["calibrate", str(small_model), *words]) == 0
    words = ["sensitivity", str(small_model), "--images", images, "--limit", "1", "--cache", cache]
    assert main([*words, "-o", str(output), "--budget", "200"]) == 0
    report = json.loads((output / "sensitivity.json").read_text())
    gains = [entry["gain_if_float"] for entry in report["ports"]]
    assert gains == sorted(gains, reverse=True) and max(gains) > 0
    assert all(0 <= entry["clipped"] < 0.1 for entry in report["ports"])
    assert any(entry["clipped"] > 0 for entry in report["ports"])
    assert sum(entry["macs_share"] for entry in report["ports"]) <= 1
    assert (output / "sensitivity.png").stat().st_size > 10_000
    assert Calibration.load(output / "calibration").quant == PartQuant(), "200 dB leaves nothing quantized"
    printed = capsys.readouterr().out
    assert "ports float" in printed and "% clipped" in printed
