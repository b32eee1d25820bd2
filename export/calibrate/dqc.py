"""DQC, distributed quantization calibration: part after part, each taught by its float twin.

Each part is fed by its already quantized predecessor, or by its float twin (Part.float_inputs). Per part:
1. search: LET and boundary ratios of every port alone (export/calibrate/search.py);
2. the stages of export/calibrate/stages.py, on the whole part or block by block;
3. which way every weight is rounded (export/calibrate/rounding.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.blockwise import (
    block_pairs,
    blocks_in_order,
    outermost_blocks,
    return_freed_memory,
)
from passionsr_trt.export.calibrate.data import crop_side, crops, data_digest, load_sources, window
from passionsr_trt.export.calibrate.distributed import begin_alike, check_share, in_turn, merge, shared
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.calibrate.losses import FeatureLoss, output_loss
from passionsr_trt.export.calibrate.placement import Bring, resident, waiting_blocks
from passionsr_trt.export.calibrate.ranges import activation_scales, observing
from passionsr_trt.export.calibrate.resume import Progress
from passionsr_trt.export.calibrate.rounding import round_weights
from passionsr_trt.export.calibrate.search import PortSearch, search_ports
from passionsr_trt.export.calibrate.shared_search import add_errors, merge_ranges
from passionsr_trt.export.calibrate.stages import Pairs, learned_ports, recomputing, run_stage, stages
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import quantized_operands, quantized_sites
from passionsr_trt.export.quantize.devices import HOST, on_device
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.part import Model, Part
from passionsr_trt.export.quantize.quantizer import pack_turns
from passionsr_trt.export.quantize.sites import Site, SiteConv, group_ports
from passionsr_trt.export.quantize.transform import claim_padding, may_shift_for_free
from torch import Tensor, nn
from tqdm import tqdm

CROP = 256
SEARCH_INPUTS, SEARCH_CROP = 4, 128


def learn_calibration(
    model: Model,
    spec: QuantSpec,
    files: list[Path],
    partial: Path | None = None,
    low_memory: bool = False,
    device: torch.device = HOST,
) -> Calibration:
    """Search, then learn, part by part. The model is left in the state it was given in.

    partial: a folder that keeps what was learned so far; a second call goes on from there.
    low_memory: activations are recomputed in the backward pass, block by block or site by site within a block;
    the result is the same.
    device: one part at a time is on it; of a large one that learns block by block, one block.
    """
    check_share(spec)
    if low_memory or spec.granularity == "block":
        return_freed_memory()
    progress = Progress(partial)
    sources = crops([load_sources(path, model) for path in files], model, spec.seed, CROP)
    floats = [on_device(sample, device) for sample in sources]
    quantized = [dict(sample) for sample in floats]
    tensors: dict[str, Tensor] = {}
    for part in model.parts:
        blocks = list(outermost_blocks(part)) if spec.granularity == "block" else []
        with resident(device, part, waiting_blocks(device, part, blocks)) as bring:
            with torch.no_grad(), observing(quantized_operands(part, spec)) as histograms:
                begin_alike(histograms, functools.partial(part.run, floats[0]))
                run_all(part, floats, "float targets")
                merge(histograms)
            teacher = [part.feed(sample) for sample in floats]
            inputs = teacher if part.float_inputs else [part.feed(sample) for sample in quantized]
            with learning(part, spec, teacher, progress) as (searches, done):
                if spec.method == "learned":
                    targets = [sample[part.output.name] for sample in floats]
                    pairs = Pairs(inputs, targets)
                    learn_part(part, spec, pairs, teacher, progress, done, low_memory, bring)
                if spec.rounding == "second_order":
                    round_weights(part, searches, inputs)
                learned = on_device(learned_tensors(searches, spec), HOST)
                tensors |= learned | activation_scales(histograms, spec)
                run_all(part, quantized, "quantized outputs")
    progress.clear()
    return Calibration(model.digest, spec, data_digest(files), tensors)


@torch.no_grad()
def run_all(part: Part, samples: list[dict[str, Tensor]], title: str) -> None:
    """Add the part's output to every sample."""
    outputs = in_turn(len(samples), lambda index: (part.run(samples[index]),))
    for sample, (output,) in zip(samples, tqdm(outputs, f"{part.name}: {title}", len(samples)), strict=True):
        sample[part.output.name] = output


def learn_part(
    part: Part,
    spec: QuantSpec,
    pairs: Pairs,
    teacher: list[tuple[Tensor, ...]],
    progress: Progress,
    done: int,
    low_memory: bool,
    bring: Bring,
) -> None:
    """Every stage that is not done yet, of the part or of each block that has something to learn.

    teacher: the float twin's inputs. bring: what gets a block to the device.
    """
    learners = learners_of(part.module)
    plan = stages(spec)
    by_module, by_features = spec.granularity == "module", spec.loss == "features"
    blocks = [] if by_module and not (low_memory or by_features) else blocks_in_order(part, teacher[0])
    if by_module:
        modules = [block for _name, block in blocks]
        measure = FeatureLoss(modules, spec.feature_weight) if by_features and modules else output_loss
        with recomputing(modules if low_memory else []):
            for index, stage in enumerate(plan):
                if index >= done:
                    run_stage(part.module, stage, part.name, pairs, spec, measure)
                    progress.save(part.name, learners, index + 1)
        return
    blocks = [(path, block) for path, block in blocks if learned_ports(block)]
    for index, (path, block) in enumerate(blocks):
        if (index + 1) * len(plan) <= done:
            continue
        title = f"{part.name}.{path}"
        sites = [module for module in block.modules() if isinstance(module, Site)] if low_memory else []
        with block_pairs(part, block, title, pairs.inputs, teacher) as own, recomputing(sites):
            bring(block)
            for stage in plan:
                run_stage(block, stage, title, own, spec)
        progress.save(part.name, learners, (index + 1) * len(plan))


def learners_of(part: nn.Module) -> nn.ModuleList:
    """Everything that learns, in module order: what is saved and restored."""
    return nn.ModuleList(module for module in part.modules() if isinstance(module, (LearnedPort, LearnedWeight)))


@contextmanager
def learning(
    part: Part, spec: QuantSpec, teacher: list[tuple[Tensor, ...]], progress: Progress
) -> Iterator[tuple[list[PortSearch], int]]:
    """Searched or restored learners on every quantized port and site of a part, in LEARN mode; all gone
    afterwards. Gives the searches and the number of stages already done."""
    searches = port_searches(part, spec)
    with keeping_padding(searches):
        try:
            for search in searches:
                search.port.learner = search.learner(spec)
                for named in search.sites:
                    weight = named.site.weight
                    named.site.learner = LearnedWeight(weight.shape[0], spec.weight_code_max, weight.device)
            learners = learners_of(part.module)
            done = progress.restore(part.name, learners)
            if done is None:
                search_part(part, spec, searches, teacher)
            for search in searches:
                settle_padding(search)
            if done is None:
                progress.save(part.name, learners, 0)
            with part.mode(Mode.LEARN):
                yield searches, done or 0
        finally:
            for search in searches:
                search.port.learner = None
                for named in search.sites:
                    named.site.learner = None


def port_searches(part: Part, spec: QuantSpec) -> list[PortSearch]:
    """A search for every quantized port: what it may do to it, and what of that a neighbour absorbs."""
    absorbers = part.absorbers()
    searches = []
    for port_name, sites in group_ports(quantized_sites(part, spec)).items():
        site, explicit = sites[0].site, spec.allows_explicit(port_name)
        absorbed = site.port in absorbers
        free_shift = may_shift_for_free(site.port, site, absorbers)
        searches.append(
            PortSearch(
                port_name,
                sites,
                may_scale=spec.let_scale and (explicit or absorbed),
                may_shift=(spec.shift == "all" and explicit) or (spec.shift != "none" and free_shift),
                scale_is_free=absorbed,
                shift_is_free=free_shift,
            )
        )
    return searches


@contextmanager
def keeping_padding(searches: list[PortSearch]) -> Iterator[None]:
    """Paddings that moved from sites into their ports while the context lasted go back."""
    before = [(getattr(search.sites[0].site, "pads", ()), search.port.pads) for search in searches]
    try:
        yield
    finally:
        for search, (site_pads, port_pads) in zip(searches, before, strict=True):
            search.port.pads = port_pads
            for named in search.sites:
                if isinstance(named.site, SiteConv):
                    named.site.pads = site_pads


def search_part(
    part: Part, spec: QuantSpec, searches: list[PortSearch], teacher: list[tuple[Tensor, ...]]
) -> None:
    """Give every port's learner the start that its search finds."""

    def observe() -> None:
        for inputs in tqdm(shared(teacher), desc=f"{part.name}: ranges"):
            part.module(*inputs)
        merge_ranges(searches, teacher[0][0].device)

    def attempt() -> None:
        def errors_of(inputs: tuple[Tensor, ...]) -> None:
            tensors = zip(inputs, part.inputs, strict=True)
            part.module(*(window(x, info.stride, (0, 0), crop_side([part], SEARCH_CROP)) for x, info in tensors))

        add_errors(searches, spec, teacher[:SEARCH_INPUTS], errors_of, f"{part.name}: search")

    search_ports(searches, observe, attempt, spec)
    for search in searches:
        learner = search.port.learner
        assert isinstance(learner, LearnedPort)
        best = search.best(spec)
        search.begin(learner, best)
        for named in search.sites:
            assert isinstance(named.site.learner, LearnedWeight)
            named.site.learner.begin_bias(learner.step(), learner.weight(named.site.weight))
        if search.port.joined and search.is_free(best):
            learner.may_scale = False


def settle_padding(search: PortSearch) -> None:
    """In front of a shift the port pads, and the padded zeros are part of its range."""
    learner = search.port.learner
    assert isinstance(learner, LearnedPort)
    if learner.shifted:
        for named in search.sites:
            claim_padding(named.site)
        if search.port.pads:
            learner.lows, learner.highs = learner.lows.clamp_max(0), learner.highs.clamp_min(0)


@torch.no_grad()
def learned_tensors(searches: list[PortSearch], spec: QuantSpec) -> dict[str, Tensor]:
    """What the calibration keeps: s, δ, Δ of ports, Δ and turns of weights (all of the transformed tensors)."""
    tensors: dict[str, Tensor] = {}
    for search in searches:
        learner = search.port.learner
        assert isinstance(learner, LearnedPort)
        tensors[f"{search.name}.activation_scale"] = learner.step().clone()
        anchored = learner.anchor * learner.step()
        if bool((learner.s() != 1).any()) or learner.shifted or learner.anchor:
            tensors[f"{search.name}.let_scale"] = learner.s().clone()
            tensors[f"{search.name}.let_shift"] = learner.delta() + learner.s() * anchored
        if learner.anchor:
            tensors[f"{search.name}.let_anchor"] = torch.full(
                (), learner.anchor, dtype=torch.int32, device=anchored.device
            )
        for named in search.sites:
            assert isinstance(named.site.learner, LearnedWeight)
            weight = learner.weight(named.site.weight)
            boundary = named.site.learner.boundary(weight)
            tensors[f"{named.name}.weight_scale"] = (boundary / spec.weight_code_max).clone()
            bias = named.site.learner.output_bias()
            if bool(bias.any()):
                tensors[f"{named.name}.output_bias"] = bias
            if named.site.learner.turns is not None:
                tensors[f"{named.name}.weight_turns"] = pack_turns(named.site.learner.turns)
    return tensors
