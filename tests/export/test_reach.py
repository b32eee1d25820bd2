"""Calibration says where the user's pictures reach less far than the drawn ones that it counts beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.blocks import Pairs
from passionsr_trt.export.calibrate.compute import ALONE, Compute
from passionsr_trt.export.calibrate.steps.reach import reach_line
from passionsr_trt.export.calibrate.steps.search import search
from passionsr_trt.export.calibrate.trainer import PartTrainer, Saved
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.quantize.values import PartQuant
from torch import Tensor

from tests.helpers import lone_part

MIXED = QuantSpec(method="search", min_channels=0, keep_first_last=False, pictures="mixed")


@dataclass
class Ranges:
    name: str
    lows: Tensor | None
    highs: Tensor | None
    all_lows: Tensor | None
    all_highs: Tensor | None


def ranges(name: str, *ends: list[float]) -> Ranges:
    return Ranges(name, *(torch.tensor(end) for end in ends))


def test_a_port_reaches_as_far_as_its_largest_value_on_either_side() -> None:
    equal = ranges("equal", [-2.0, -1.0], [1.0, 1.0], [-2.0, -2.0], [1.0, 2.0])  # no channel beyond the largest
    near = ranges("near", [0.0, 0.0], [1.9, 0.1], [0.0, 0.0], [2.0, 2.0])
    low = ranges("low", [-1.0, 0.0], [0.5, 0.5], [-4.0, 0.0], [0.5, 0.5])
    high = ranges("high", [-1.0, 0.0], [2.0, 2.0], [-1.0, 0.0], [2.0, 4.0])
    dead = ranges("dead", [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    assert reach_line("net", [equal, near, dead], MIXED) is None
    line = reach_line("net", [equal, near, high, low, dead], replace(MIXED, pictures="any"))
    assert line is not None and line.startswith(
        "net: your pictures reach less far than drawn ones at 2 of 5 ports"
    )
    assert (
        "(0.25 as far at low). Nothing is to be done: drawn ones count 0.8 of the whole" in line
        and '"any"' in line
    )


@pytest.mark.parametrize(
    ("drawn", "compute", "says"),
    [
        pytest.param(True, ALONE, True, id="drawn pictures"),
        pytest.param(False, ALONE, False, id="all the user's"),
        pytest.param(True, Compute(rank=1), False, id="a process that does not lead"),
    ],
)
def test_the_search_says_it_once_a_part(
    drawn: bool, compute: Compute, says: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    part = lone_part("net", torch.nn.Sequential(SiteConv(torch.randn(3, 3, 1, 1), None)), 3)
    own = torch.rand(1, 3, 8, 8)
    inputs = [(own,), (own * -4,)]
    with torch.no_grad():
        targets = [part.module(x) for (x,) in inputs]
    pairs = Pairs(inputs, targets, [False, drawn])
    with PartTrainer(part, MIXED, inputs, pairs, Saved(None, compute)) as trainer:
        search(trainer, PartQuant())
    lines = [line for line in capsys.readouterr().err.splitlines() if "your pictures" in line]
    assert len(lines) == says
    assert all("at 1 of 1 ports (0.25 as far at net.0)" in line for line in lines)
