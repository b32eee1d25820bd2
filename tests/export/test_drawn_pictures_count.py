"""Calibration on the user's pictures and drawn ones: what each kind counts for, step by step; floors on both."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.openvino.proof import psnr
from passionsr_trt.engines.pictures.drawn_set import EXTREME, drawn_set
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.export.calibrate.blocks import Pairs
from passionsr_trt.export.calibrate.compute import ALONE
from passionsr_trt.export.calibrate.data import calibration_files, data_digest, sources_of_picture
from passionsr_trt.export.calibrate.learners import learned_ports
from passionsr_trt.export.calibrate.steps.learn_transform import LearnTransform
from passionsr_trt.export.calibrate.steps.round_weights import second_moments, weights_of_crops
from passionsr_trt.export.calibrate.steps.search import search
from passionsr_trt.export.calibrate.trainer import PartTrainer, Saved, crops_of_steps
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.sites import SiteConv, group_ports
from passionsr_trt.export.quantize.calibration import Calibration, calibration_key
from passionsr_trt.export.quantize.values import PartQuant

from tests.conftest import DEMO, ROOT
from tests.helpers import applied, faked, lone_part

MIXED = QuantSpec(method="learned", min_channels=0, keep_first_last=False, pictures="mixed")
PHOTOS = replace(MIXED, pictures="photos")


def pairs(own: int, drawn: int) -> Pairs:
    inputs = [(torch.full((1, 1, 1, 1), float(index)),) for index in range(own + drawn)]
    return Pairs(inputs, [x for (x,) in inputs], [False] * own + [True] * drawn)


def test_every_step_learns_from_as_many_of_each_kind() -> None:
    steps = list(itertools.islice(crops_of_steps(pairs(3, 2), MIXED, "x"), 6))
    assert all(step[0][0] < 3 <= step[1][0] for step in steps)
    assert Counter(index for step in steps for index, _weight in step) == {0: 2, 1: 2, 2: 2, 3: 3, 4: 3}
    assert {weight for step in steps for _index, weight in step} == {1 - MIXED.drawn_weight, MIXED.drawn_weight}


def test_where_nothing_is_drawn_every_crop_counts_alike() -> None:
    (step,) = itertools.islice(crops_of_steps(pairs(3, 0), QuantSpec(accumulate=2), "x"), 1)
    assert [weight for _index, weight in step] == [0.5, 0.5]


def test_moments_count_a_picture_by_its_kind_and_not_by_its_energy() -> None:
    torch.manual_seed(0)
    part = lone_part("part", SiteConv(torch.randn(2, 3, 1, 1), None), 3)
    groups = group_ports(part.sites())
    dark, bright = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    (name,) = groups

    def moments(factor: float, drawn: list[bool]) -> torch.Tensor:
        inputs = [(dark,), (bright * factor,)]
        weights = weights_of_crops(Pairs(inputs, [], drawn), MIXED)
        return second_moments(part, groups, inputs, weights)[name][0]

    torch.testing.assert_close(moments(1, [False, True]), moments(100, [False, True]))
    assert float(moments(1, [False, True]).diagonal().sum()) == pytest.approx(1)
    assert moments(100, [False, False]).max() > 1000 * moments(1, [False, False]).max()


def test_with_drawn_pictures_scales_are_learned_and_boundaries_stay() -> None:
    torch.manual_seed(0)
    layers = [SiteConv(torch.randn(4, 4, 3, 3), torch.randn(4), pads=1) for _layer in range(2)]
    part = lone_part("part", torch.nn.Sequential(*layers), 4)
    inputs = [(torch.randn(1, 4, 16, 16) * size,) for size in (1, 1, 4)]
    with torch.no_grad():
        targets = [part.module(x) for (x,) in inputs]
    for spec, stays in ((MIXED, True), (PHOTOS, False)):
        drawn = [False, False, stays]
        with PartTrainer(part, spec, inputs, Pairs(inputs, targets, drawn), Saved(None, ALONE)) as trainer:
            search(trainer, PartQuant())
            ports = [port for port in learned_ports(part.module) if port.may_scale]
            before = [(port.s().detach().clone(), float(port.boundary())) for port in ports]
            trainer.run(part.module, LearnTransform(), part.name, trainer.pairs)
            assert ports
            for port, (scale, boundary) in zip(ports, before, strict=True):
                assert not torch.equal(port.s(), scale)
                assert (float(port.boundary()) == pytest.approx(boundary, rel=1e-6)) is stays


SQUARE = ("astronaut", "brick", "grass")
SIDE = 64  # low-resolution pixels
CROP = (32, 32, 32 + SIDE, 32 + SIDE)
# dB to the float output, 1 dB below what was measured: photos, drawn pictures, their worst, extremes
FLOORS = {"realesrgan": (36.7, 35.6, 29.8, 24.1), "model": (49.5, 46.0, 41.1, 37.7)}


@pytest.mark.parametrize("name", list(FLOORS))
def test_the_committed_calibrations_are_close_on_photos_and_on_drawn_pictures(name: str) -> None:
    model = load_model(DEMO / name)
    output = model.parts[-1].output.name
    spec = QuantSpec(method="learned")
    key = calibration_key(model.digest, spec, data_digest(calibration_files(DEMO / "calib" / "lr", 32)))
    calibration = Calibration.load(ROOT / "calib_cache" / key)
    photos = {name: read_picture(DEMO / "photos" / "lr" / f"{name}.png").rgb.crop(CROP) for name in SQUARE}
    pictures = {title: sources_of_picture(each, model, 0) for title, each in (photos | drawn_set(SIDE)).items()}
    with torch.no_grad(), ExitStack() as stack:
        exact = {title: model.run(sources)[output].numpy() for title, sources in pictures.items()}
        for part in model.parts:
            stack.enter_context(faked(part, applied(calibration, part)))
        found = {
            title: psnr(model.run(sources)[output].numpy(), exact[title]) for title, sources in pictures.items()
        }
    drawn = [value for title, value in found.items() if title not in photos and title not in EXTREME]
    of_photos, of_extremes = ([found[title] for title in titles] for titles in (photos, EXTREME))
    means = [sum(values) / len(values) for values in (of_photos, drawn, of_extremes)]
    measured = (means[0], means[1], min(drawn), means[2])
    assert all(value > floor for value, floor in zip(measured, FLOORS[name], strict=True)), (measured, found)
