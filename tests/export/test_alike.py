"""Steps whose graphs differ in constants alone: one tracing, every constant replaced, or traced anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.export.model.part import Model, Part
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.onnx import to_onnx
from passionsr_trt.export.onnx.alike import Traced
from passionsr_trt.export.onnx.bundle import export_bundle
from passionsr_trt.export.onnx.to_onnx import ExportPlan, export_part, run_reference
from passionsr_trt.export.quantize.values import PartQuant
from torch import Tensor, nn


class Step(nn.Module):
    """A norm whose weight the exporter folds, a site, a gain, and what is folded beyond recognition."""

    gain: Tensor
    lost: Tensor

    def __init__(self, seed: int, lost: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.norm = nn.GroupNorm(2, 4)
        self.norm.weight.data, self.norm.bias.data, bias = torch.randn(3, 4, generator=generator)
        self.conv = SiteConv(torch.randn(4, 4, 3, 3, generator=generator), bias, pads=1)
        self.register_buffer("gain", torch.randn((), generator=generator))
        self.register_buffer("lost", torch.full((4, 1, 1), lost))

    def forward(self, x: Tensor, own_noise: Tensor) -> Tensor:
        return self.gain * own_noise + self.conv(self.norm(x)) * (self.lost.exp() + 1)


def step(number: int, seed: int, lost: float = 1.0) -> Part:
    x, drawn, result = (TensorInfo(name, 4, 1) for name in (f"x{number}", f"noise_{number}", f"x{number - 1}"))
    return Part(f"unet_{number}", Step(seed, lost).eval(), (x, drawn), result, 8)


def test_a_step_like_one_before_is_its_graph_with_other_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, tracings = ExportPlan(), []
    traced = to_onnx._write_program

    def counted(part: Part, *rest: object) -> None:
        tracings.append(part.name)
        traced(part, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(to_onnx, "_write_program", counted)
    known: list[Traced] = []
    for part in (step(4, 0), step(3, 1), step(2, 2, lost=2.0)):
        path = tmp_path / f"{part.name}.onnx"
        export_part(part, PartQuant(), 8, plan, path, traced=known)
        feed = {tensor.name: torch.randn(2, 4, 16, 8) for tensor in part.inputs}
        found = torch.from_numpy(run_reference(path, {name: x.numpy() for name, x in feed.items()}))
        torch.testing.assert_close(found, part.run(feed).detach(), rtol=1e-4, atol=1e-4)
        graph = onnx.load(path).graph
        assert [value.name for value in (*graph.input, *graph.output)] == [*feed, part.output.name]
        assert f"{part.name}.conv" in {node.name for node in graph.node}
    assert tracings == [own.part.name for own in known] == ["unet_4", "unet_2"], (
        "what the third one changes stands in no constant of its own"
    )


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = SiteConv(torch.randn(3, 4, 3, 3), None, pads=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_constants_are_looked_for_where_another_part_is_of_the_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, right = [], Traced.of

    def counted(part: Part, *rest: Any) -> Traced:
        looked.append(part.name)
        return right(part, *rest)

    monkeypatch.setattr(Traced, "of", counted)
    start, picture = TensorInfo("noise", 4, 1), TensorInfo("picture", 3, 1)
    first, second = step(3, 0), step(2, 1)
    first.inputs = (start, first.inputs[1])
    for parts in ((first, second), (first,)):
        last = Part("last", Last().eval(), (parts[-1].output,), picture, 8)
        model = Model("toy", "", 1, "none", (*parts, last), None)
        export_bundle(model, None, ExportPlan(), tmp_path / str(len(parts)))
    assert looked == ["unet_3"], "of the two steps, once; of parts that are alone never"
