"""The case LET exists for: a few channels of a norm's output far larger than the rest.

γ and β of random channels are scaled by 30 and the columns of the linears that read them by 1/30. The float
model stays the same; a quantizer without LET loses its codes to those channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import calibration_files, crops, load_sources
from passionsr_trt.export.calibrate.pipeline import CROP, calibrate
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.stable_diffusion.blocks import SpatialTransformer, TransformerBlock
from passionsr_trt.export.model.part import Model
from passionsr_trt.export.model.proof import relative_error

from tests.conftest import TINY
from tests.helpers import applied, faked

FACTOR = 30.0


@torch.no_grad()
def plant_outliers(model: Model) -> int:
    """Scale one channel in sixteen of every norm that feeds linears alone; returns how many norms."""
    generator = torch.Generator().manual_seed(7)
    count = 0
    for module in model.part("unet").module.modules():
        pairs = []
        if isinstance(module, TransformerBlock):
            attention = module.attn1
            pairs = [
                (module.norm1, [attention.to_q, attention.to_k, attention.to_v]),
                (module.norm2, [module.attn2.to_q]),
                (module.norm3, [module.ff.proj]),
            ]
        elif isinstance(module, SpatialTransformer):
            pairs = [(module.norm, [module.proj_in])]
        for norm, sites in pairs:
            factor = torch.ones(norm.weight.shape[0])
            factor[torch.randperm(len(factor), generator=generator)[: len(factor) // 16]] = FACTOR
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
            for site in sites:
                site.weight.div_(factor)
            count += 1
    return count


def snr(folder: Path, spec: QuantSpec, files: list[Path], planted: bool) -> float:
    """Of the quantized UNet's output to the float one, in dB."""
    model = load_model(folder)
    unet = model.part("unet")
    images = crops([load_sources(path, model) for path in files], model, 0, CROP)
    with torch.no_grad():
        tensors = model.run(images[0])
        expected = unet.run(tensors)
        if planted:
            assert plant_outliers(model) >= 4
            assert relative_error(expected, unet.run(tensors)) < 1e-4, "the float model is the same"
    calibration = calibrate(model, spec, files)
    with torch.no_grad():
        with faked(unet, applied(calibration, unet, tensors)):
            found = unet.run(tensors)
    return float(-20 * torch.log10(torch.linalg.norm(found - expected) / torch.linalg.norm(expected)))


def test_let_absorbs_outlier_channels_and_minmax_does_not(small_model: Path) -> None:
    """What the outliers cost each, in dB. LET's cost is near 0, of either sign: the two networks are the same, but
    searching and learning end a few tenths of a dB apart on another CPU as well. Measured: 15.5 and -0.1."""
    files = calibration_files(TINY, 2)
    let = QuantSpec(
        method="learned", let_steps=4, lbq_steps=4, correction_steps=4, learning_rate=0.01, pictures="photos"
    )
    minmax = QuantSpec(method="range", activation_observer="minmax", pictures="photos")
    lost_by_let, lost_by_minmax = (
        snr(small_model, spec, files, False) - snr(small_model, spec, files, True) for spec in (let, minmax)
    )
    assert lost_by_minmax > 8
    assert lost_by_let < lost_by_minmax / 5


def test_the_chain_is_the_same_with_outliers(small_model: Path) -> None:
    model = load_model(small_model)
    sources = {"image": torch.rand(1, 3, 64, 64) * 2 - 1}
    before = model.run(sources)["image_out"]
    plant_outliers(model)
    assert relative_error(before, model.run(sources)["image_out"]) < 1e-4
