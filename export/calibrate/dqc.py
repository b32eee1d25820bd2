"""DQC, distributed quantization calibration: encoder → UNet → decoder, each taught by its float twin.

Each part is fed by its already quantized predecessor. Per part:
1. search: LET and boundary ratios of every port alone (export/calibrate/search.py);
2. the stages of export/calibrate/stages.py, on the whole part or block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.blockwise import block_pairs, blocks_in_order, return_freed_memory
from passionsr_trt.export.calibrate.data import data_digest, load_input
from passionsr_trt.export.calibrate.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.calibrate.resume import Progress
from passionsr_trt.export.calibrate.search import PortSearch, search_ports
from passionsr_trt.export.calibrate.stages import Pairs, learned_ports, recomputing, run_stage, stages
from passionsr_trt.export.families.stable_diffusion.fold import Parts, posterior_mean
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import quantized_sites
from passionsr_trt.export.quantize.sites import Mode, Site, SiteConv, group_ports, set_mode
from passionsr_trt.export.quantize.transform import absorbers, claim_padding, may_shift_for_free
from torch import Tensor, nn
from tqdm import tqdm

CROP = 256
SEARCH_INPUTS, SEARCH_CROP = 4, 128


def learn_calibration(
    model: OneStepModel,
    parts: Parts,
    spec: QuantSpec,
    files: list[Path],
    partial: Path | None = None,
    low_memory: bool = False,
) -> Calibration:
    """Search, then learn, part by part. `parts` is left in the state it was given in.

    partial: a folder that keeps what was learned so far; a second call goes on from there.
    low_memory: activations are recomputed in the backward pass, block by block or site by site within a block;
    the result is the same.
    """
    if low_memory or spec.granularity == "block":
        return_freed_memory()
    progress = Progress(partial)
    float_inputs = crops([load_input(path, model) for path in files], spec.seed)
    quantized_inputs = float_inputs
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        with torch.no_grad():
            targets = [posterior_mean(part, part(x)) for x in tqdm(float_inputs, desc=f"{name}: float targets")]
        with learning(part, name, spec, float_inputs, progress) as (searches, done):
            if spec.method == "learned":
                learn_part(
                    part, name, spec, Pairs(quantized_inputs, targets), float_inputs, progress, done, low_memory
                )
            tensors |= learned_tensors(searches, spec)
            with torch.no_grad():
                outputs = tqdm(quantized_inputs, desc=f"{name}: quantized outputs")
                quantized_inputs = [posterior_mean(part, part(x)) for x in outputs]
        float_inputs = targets
    progress.clear()
    return Calibration(model.digest, spec, data_digest(files), tensors)


def crops(images: list[Tensor], seed: int, crop: int = CROP) -> list[Tensor]:
    """One seeded crop of crop×crop pixels of every image, on multiples of 8."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for image in images:
        limits = [max(0, side - crop) // 8 for side in image.shape[2:]]
        top, left = (8 * int(torch.randint(0, limit + 1, (), generator=generator)) for limit in limits)
        result.append(image[:, :, top : top + crop, left : left + crop].contiguous())
    return result


def learn_part(
    part: nn.Module,
    name: str,
    spec: QuantSpec,
    pairs: Pairs,
    float_inputs: list[Tensor],
    progress: Progress,
    done: int,
    low_memory: bool,
) -> None:
    """Every stage that is not done yet, of the part or of each block that has something to learn."""
    learners = learners_of(part)
    plan = stages(spec)
    by_module = spec.granularity == "module"
    blocks = [] if by_module and not low_memory else blocks_in_order(part, float_inputs[0])
    if by_module:
        with recomputing([block for _name, block in blocks]):
            for index, stage in enumerate(plan):
                if index >= done:
                    run_stage(part, stage, name, pairs, spec, lambda x: posterior_mean(part, x))
                    progress.save(name, learners, index + 1)
        return
    blocks = [(path, block) for path, block in blocks if learned_ports(block)]
    for index, (path, block) in enumerate(blocks):
        if (index + 1) * len(plan) <= done:
            continue
        title = f"{name}.{path}"
        sites = [module for module in block.modules() if isinstance(module, Site)] if low_memory else []
        with block_pairs(part, block, title, pairs.inputs, float_inputs) as own, recomputing(sites):
            for stage in plan:
                run_stage(block, stage, title, own, spec)
        progress.save(name, learners, (index + 1) * len(plan))


def learners_of(part: nn.Module) -> nn.ModuleList:
    """Everything that learns, in module order: what is saved and restored."""
    return nn.ModuleList(module for module in part.modules() if isinstance(module, (LearnedPort, LearnedWeight)))


@contextmanager
def learning(
    part: nn.Module, name: str, spec: QuantSpec, inputs: list[Tensor], progress: Progress
) -> Iterator[tuple[list[PortSearch], int]]:
    """Searched or restored learners on every quantized port and site of a part, in LEARN mode; all gone
    afterwards. Gives the searches and the number of stages already done."""
    found = absorbers(part)
    searches = []
    for port_name, sites in group_ports(quantized_sites(part, name, spec)).items():
        site, explicit = sites[0].site, spec.allows_explicit(port_name)
        may_scale = spec.let_scale and (explicit or site.port in found)
        wanted = spec.shift == "all" and explicit
        free_shift = may_shift_for_free(site.port, site, found)
        may_shift = wanted or (spec.shift != "none" and free_shift)
        searches.append(PortSearch(port_name, sites, may_scale, may_shift, site.port in found, free_shift))
    paddings = [(getattr(search.sites[0].site, "pads", ()), search.port.pads) for search in searches]
    try:
        for search in searches:
            search.port.learner = search.learner(spec)
            for named in search.sites:
                named.site.learner = LearnedWeight(named.site.weight.shape[0], spec.weight_code_max)
        learners = learners_of(part)
        done = progress.restore(name, learners)
        if done is None:
            search_part(part, name, spec, searches, inputs)
        for search in searches:
            settle_padding(search)
        if done is None:
            progress.save(name, learners, 0)
        set_mode(part, Mode.LEARN)
        yield searches, done or 0
    finally:
        set_mode(part, Mode.FLOAT)
        for search, (site_pads, port_pads) in zip(searches, paddings, strict=True):
            search.port.learner, search.port.pads = None, port_pads
            for named in search.sites:
                named.site.learner = None
                if isinstance(named.site, SiteConv):
                    named.site.pads = site_pads


def search_part(
    part: nn.Module, name: str, spec: QuantSpec, searches: list[PortSearch], inputs: list[Tensor]
) -> None:
    """Give every port's learner the start that its search finds."""
    side = SEARCH_CROP if name == "vae_encoder" else SEARCH_CROP // 8

    def observe() -> None:
        for x in tqdm(inputs, desc=f"{name}: ranges"):
            part(x)

    def attempt() -> None:
        for x in tqdm(inputs[:SEARCH_INPUTS], desc=f"{name}: search"):
            part(x[:, :, :side, :side])

    search_ports(searches, observe, attempt, spec)
    for search in searches:
        learner = search.port.learner
        assert isinstance(learner, LearnedPort)
        best = search.best(spec)
        search.begin(learner, best)
        if search.port.after_silu and search.is_free(best):
            learner.may_scale = torch.tensor(False)


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
    """What the calibration keeps: s, δ, Δ of ports, Δ of weights (all of the transformed tensors)."""
    tensors: dict[str, Tensor] = {}
    high = spec.activation_codes[1]
    for search in searches:
        learner = search.port.learner
        assert isinstance(learner, LearnedPort)
        tensors[f"{search.name}.activation_scale"] = (learner.boundary() / high).clone()
        if bool((learner.s() != 1).any()) or learner.shifted:
            tensors[f"{search.name}.let_scale"] = learner.s().clone()
            tensors[f"{search.name}.let_shift"] = learner.delta().clone()
        for named in search.sites:
            assert isinstance(named.site.learner, LearnedWeight)
            boundary = named.site.learner.boundary(learner.weight(named.site.weight))
            tensors[f"{named.name}.weight_scale"] = (boundary / spec.weight_code_max).clone()
    return tensors
