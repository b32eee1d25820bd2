"""DQC, distributed quantization calibration: part after part, each taught by its float twin.

Each part is fed by its already quantized predecessor, or by its float twin (Part.float_inputs). Per part:
1. search: LET and boundary ratios of every port alone (export/calibrate/search.py);
2. the stages of export/calibrate/stages.py, on the whole part or block by block (export/calibrate/teaching.py);
3. which way every weight is rounded (export/calibrate/rounding.py);
4. of the last part, what its rows make up for (export/calibrate/settling.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.attempts import add_errors
from passionsr_trt.export.calibrate.blockwise import Inputs, outermost_blocks
from passionsr_trt.export.calibrate.data import crop_side, crops, data_digest, load_sources, window
from passionsr_trt.export.calibrate.distributed import begin_alike, check_share, in_turn, merge, shared
from passionsr_trt.export.calibrate.heap import return_freed_memory, return_what_is_free
from passionsr_trt.export.calibrate.held import holding
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.calibrate.learned import learned_tensors
from passionsr_trt.export.calibrate.padding import keeping_padding, settle_padding
from passionsr_trt.export.calibrate.placement import resident, waiting_blocks
from passionsr_trt.export.calibrate.ranges import activation_scales, observing
from passionsr_trt.export.calibrate.resume import Progress, State
from passionsr_trt.export.calibrate.rounding import round_weights
from passionsr_trt.export.calibrate.search import PortSearch, merge_ranges
from passionsr_trt.export.calibrate.settling import settles
from passionsr_trt.export.calibrate.stages import Pairs, learners_of
from passionsr_trt.export.calibrate.teaching import Lesson
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import quantized_operands, quantized_sites
from passionsr_trt.export.quantize.devices import HOST, on_device
from passionsr_trt.export.quantize.hooks import watching_outputs
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.part import Model, Part
from passionsr_trt.export.quantize.sites import group_ports
from passionsr_trt.export.quantize.transform import may_shift_for_free
from torch import Tensor
from tqdm import tqdm

CROP = 256
SEARCH_INPUTS, SEARCH_CROP = 4, 128
COST_INPUTS = 2  # crops on which the cost of each block is measured


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
        last = part is model.parts[-1]
        blocks = list(outermost_blocks(part)) if spec.granularity == "block" else []
        with resident(device, part, waiting_blocks(device, part, blocks)) as bring:
            with torch.no_grad(), observing(quantized_operands(part, spec)) as histograms:
                begin_alike(histograms, functools.partial(part.run, floats[0]))
                run_all(part, floats, "float targets")
                merge(histograms)
            teacher = [part.feed(sample) for sample in floats]
            inputs = teacher if part.float_inputs else [part.feed(sample) for sample in quantized]
            pairs = Pairs(inputs, [sample[part.output.name] for sample in floats])
            with learning(part, spec, teacher, progress) as (searches, state):
                lesson = Lesson(part, spec, pairs, teacher, progress, state, low_memory, bring)
                if spec.method == "learned":
                    lesson.learn(search_crops(part, teacher)[:COST_INPUTS])
                with holding(searches):
                    if spec.rounding == "second_order":
                        round_weights(part, searches, inputs)
                    if not last:
                        run_all(part, quantized, "quantized outputs")
                if last and settles(spec):
                    lesson.settle(searches)
                learned = on_device(learned_tensors(searches, spec), HOST)
                tensors |= learned | activation_scales(histograms, spec)
        return_what_is_free()
    progress.clear()
    return Calibration(model.digest, spec, data_digest(files), tensors)


@torch.no_grad()
def run_all(part: Part, samples: list[dict[str, Tensor]], title: str) -> None:
    """Add the part's output to every sample."""
    outputs = in_turn(len(samples), lambda index: (part.run(samples[index]),))
    for sample, (output,) in zip(samples, tqdm(outputs, f"{part.name}: {title}", len(samples)), strict=True):
        sample[part.output.name] = output


@contextmanager
def learning(
    part: Part, spec: QuantSpec, teacher: list[Inputs], progress: Progress
) -> Iterator[tuple[list[PortSearch], State]]:
    """Searched or restored learners on every quantized port and site of a part, in LEARN mode; all gone
    afterwards. Gives the searches and what was learned already."""
    searches = port_searches(part, spec)
    with keeping_padding(searches):
        try:
            for search in searches:
                search.port.learner = search.learner(spec)
                for named in search.sites:
                    weight = named.site.weight
                    named.site.learner = LearnedWeight(weight.shape[0], spec.weight_code_max, weight.device)
            learners = learners_of(part.module)
            state = progress.restore(part.name, learners)
            if state is None:
                search_part(part, spec, searches, teacher)
            for search in searches:
                settle_padding(search)
            if state is None:
                state = State()
                progress.save(part.name, learners, state)
            with part.mode(Mode.LEARN):
                yield searches, state
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


def search_crops(part: Part, teacher: list[Inputs]) -> list[Inputs]:
    """The small crops of the float twin's inputs on which candidates are tried."""
    side = crop_side([part], SEARCH_CROP)
    return [
        tuple(window(x, info.stride, (0, 0), side) for x, info in zip(inputs, part.inputs, strict=True))
        for inputs in teacher[:SEARCH_INPUTS]
    ]


def search_part(part: Part, spec: QuantSpec, searches: list[PortSearch], teacher: list[Inputs]) -> None:
    """Give every port's learner the start that its search finds."""
    with torch.no_grad(), watching_outputs((search.port, search.observe) for search in searches):
        for inputs in tqdm(shared(teacher), desc=f"{part.name}: ranges"):
            part.module(*inputs)
    merge_ranges(searches, teacher[0][0].device)
    add_errors(part, searches, spec, search_crops(part, teacher))
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
