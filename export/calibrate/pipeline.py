"""Calibrate: a method is a tuple of steps, each of which takes a part's quantization to the next.

| method      | steps                                                                             |
| ----------- | --------------------------------------------------------------------------------- |
| range       | observe, on whole pictures                                                        |
| smoothquant | search its one candidate, round weights                                           |
| search      | search, round weights                                                             |
| learned     | search, learn the transform (LET), then boundaries (LBQ), round weights, correct  |
|             | the biases of the last part                                                       |

`learned` is DQC, distributed quantization calibration: part after part, each taught by its float twin and fed by
its already quantized predecessor, or by its float twin (Part.float_inputs). Sites whose codes lose nothing
(export/model/signs.py) take part in none of it: their rows are known, and float is what they compute.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.calibrate.blocks import Pairs, outermost_blocks
from passionsr_trt.export.calibrate.compute import ALONE, Compute
from passionsr_trt.export.calibrate.data import crops, data_digest, drawn_sources, load_sources, pools_positions
from passionsr_trt.export.calibrate.placement import (
    resident,
    return_freed_memory,
    return_what_is_free,
    waiting_blocks,
)
from passionsr_trt.export.calibrate.steps.correct_bias import correct_bias
from passionsr_trt.export.calibrate.steps.learn_boundaries import LearnBoundaries
from passionsr_trt.export.calibrate.steps.learn_transform import LearnTransform
from passionsr_trt.export.calibrate.steps.observe import observed, observing
from passionsr_trt.export.calibrate.steps.round_weights import round_weights
from passionsr_trt.export.calibrate.steps.search import search
from passionsr_trt.export.calibrate.trainer import Learn, PartTrainer, Saved
from passionsr_trt.export.model.devices import HOST, on_device, working_on
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.part import Model, Part
from passionsr_trt.export.model.sites import Port
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import known_rows, quantized_operands, quantized_sites
from passionsr_trt.export.quantize.grids import Grid
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from passionsr_trt.export.quantize.values import PartQuant
from torch import Tensor

CROP = 256
Step = Callable[[PartTrainer, PartQuant], PartQuant]
METHODS: dict[str, tuple[Step, ...]] = {
    "smoothquant": (search, round_weights),
    "search": (search, round_weights),
    "learned": (search, Learn((LearnTransform(), LearnBoundaries())), round_weights, correct_bias),
}


def calibrate(
    model: Model,
    spec: QuantSpec,
    files: list[Path],
    compute: Compute = ALONE,
    partial: Path | None = None,
    low_memory: bool = False,
) -> Calibration:
    """A quantization of every site that the spec chooses. The model is left in the state it was given in.

    partial: a folder that keeps what was learned so far; a second call goes on from there.
    low_memory: activations are recomputed in the backward pass, block by block or site by site within a block;
    the result is the same.
    compute: one part at a time is on its device; of a large one that learns block by block, one block.
    """
    check_chosen(model, spec)
    compute.check_share(spec)
    if spec.method == "range":
        quant = observe_model(model, spec, files, compute)
    else:
        if low_memory or spec.granularity == "block":
            return_freed_memory()
        saved = Saved(partial, compute)
        quant = calibrate_parts(model, spec, files, saved, low_memory)
        saved.clear()
    for part in model.parts:
        quant |= known_rows(part, spec)
    return Calibration(model.digest, spec, data_digest(files), quant)


def check_chosen(model: Model, spec: QuantSpec) -> None:
    """UserError where a spec's patterns name no site, or leave none to quantize."""
    names = [named.name for part in model.parts for named in part.sites()]
    for pattern in spec.exclude:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"spec: exclude {pattern!r} matches no site", f"expected names like {names[-1]}")
    if not any(quantized_sites(part, spec) or known_rows(part, spec).sites for part in model.parts):
        raise UserError("the spec leaves every site float", "expected at least one site to quantize")


@torch.no_grad()
def observe_model(model: Model, spec: QuantSpec, files: list[Path], compute: Compute) -> PartQuant:
    """Scales of every quantized site from the float model's activations on the user's whole pictures."""
    chosen = [named for part in model.parts for named in quantized_sites(part, spec)]
    ports: dict[str, Port] = {named.port_name: named.site.port for named in chosen}
    for part in model.parts:
        ports |= quantized_operands(part, spec)
    with working_on(compute.device, model.parts):
        with observing(ports) as histograms:
            compute.begin_alike(histograms, lambda: model.run(sources(files[0], model, compute)))
            for path in Bar(compute.shared(files), desc="calibrating", unit="image"):
                model.run(sources(path, model, compute))
            compute.merge(histograms)
        return observed(histograms, spec, chosen).on(HOST)


def sources(path: Path, model: Model, compute: Compute) -> dict[str, Tensor]:
    return on_device(load_sources(path, model), compute.device)


def calibrate_parts(
    model: Model, spec: QuantSpec, files: list[Path], saved: Saved, low_memory: bool = False
) -> PartQuant:
    """The method's steps on one part after the other."""
    compute, quant = saved.compute, PartQuant(grid=Grid.of(spec))
    crop, each = (CROP, 1) if spec.granularity == "block" or pools_positions(model) else (CROP // 2, 4)
    own = crops([load_sources(path, model) for path in files], model, spec.seed, crop, each)
    drawn = crops(drawn_sources(files, model, spec, CROP), model, spec.seed, crop, each)
    floats = [on_device(sample, compute.device) for sample in own + drawn]
    is_drawn = [False] * len(own) + [True] * len(drawn)
    quantized = [dict(sample) for sample in floats]
    for part in model.parts:
        is_last = part is model.parts[-1]
        blocks = list(outermost_blocks(part)) if spec.granularity == "block" else []
        with resident(compute.device, part, waiting_blocks(compute.device, part, blocks)) as bring:
            operands = observe_operands(part, spec, floats, compute)
            teacher = [part.feed(sample) for sample in floats]
            inputs = teacher if part.float_inputs else [part.feed(sample) for sample in quantized]
            pairs = Pairs(inputs, [sample[part.output.name] for sample in floats], is_drawn, each)
            with PartTrainer(part, spec, teacher, pairs, saved, bring, low_memory, is_last) as trainer:
                rows = operands
                for step in METHODS[spec.method]:
                    rows = step(trainer, rows)
                if not is_last:
                    with attached(fake_quantizers(part, rows)):
                        run_all(part, quantized, "quantized outputs", compute)
            quant |= operands | rows
        return_what_is_free()
    return quant


@torch.no_grad()
def observe_operands(part: Part, spec: QuantSpec, samples: list[dict[str, Tensor]], compute: Compute) -> PartQuant:
    """Run the float part on every sample; the rows of its operands, where the spec quantizes them."""
    with observing(quantized_operands(part, spec)) as histograms:
        compute.begin_alike(histograms, lambda: part.run(samples[0]))
        run_all(part, samples, "float targets", compute)
        compute.merge(histograms)
    return observed(histograms, spec)


@torch.no_grad()
def run_all(part: Part, samples: list[dict[str, Tensor]], title: str, compute: Compute) -> None:
    """Add the part's output to every sample."""
    outputs = compute.in_turn(len(samples), lambda index: (part.run(samples[index]),))
    for sample, (output,) in zip(samples, Bar(outputs, f"{part.name}: {title}", len(samples)), strict=True):
        sample[part.output.name] = output
