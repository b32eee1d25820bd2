"""DQC, distributed quantization calibration: encoder → UNet → decoder, each taught by its float twin.

Each part is fed by its already quantized predecessor. Per part:
1. search: LET and boundary ratios of every port alone (export/search.py);
2. stage LET: s and δ are learned, boundaries follow;
3. boundaries are fixed where they stand;
4. stage LBQ: boundaries are learned, s and δ rest.
Loss: MSE to the float twin's output on float inputs (z, x0, image). Adam, cosine decay, one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from passionsr_trt.export.calibrate import quantized_sites
from passionsr_trt.export.calibration import Calibration
from passionsr_trt.export.constants import Parts
from passionsr_trt.export.data import data_digest, load_input
from passionsr_trt.export.learn import LearnedPort, LearnedWeight
from passionsr_trt.export.model import OneStepModel
from passionsr_trt.export.search import PortSearch, search_ports
from passionsr_trt.export.sites import Mode, SiteConv, group_ports, set_mode
from passionsr_trt.export.spec import QuantSpec
from passionsr_trt.export.transform import absorbers, claim_padding, may_shift_for_free
from torch import Tensor, nn
from tqdm import tqdm

CROP = 256
SEARCH_INPUTS, SEARCH_CROP = 4, 128


def learn_calibration(model: OneStepModel, parts: Parts, spec: QuantSpec, files: list[Path]) -> Calibration:
    """Search, then learn, part by part. `parts` is left in the state it was given in."""
    torch.manual_seed(spec.seed)
    float_inputs = crops([load_input(path, model) for path in files])
    quantized_inputs = float_inputs
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        with torch.no_grad():
            targets = [posterior_mean(part, part(x)) for x in tqdm(float_inputs, desc=f"{name}: float targets")]
        with learning(part, name, spec, float_inputs) as searches:
            train(part, name, quantized_inputs, targets, spec)
            tensors |= learned_tensors(searches, spec)
            with torch.no_grad():
                quantized_inputs = [posterior_mean(part, part(x)) for x in quantized_inputs]
        float_inputs = targets
    return Calibration(model.digest, spec, data_digest(files), tensors)


def crops(images: list[Tensor]) -> list[Tensor]:
    """One seeded crop of 256×256 pixels of every image, on multiples of 8."""
    result = []
    for image in images:
        limits = [max(0, side - CROP) // 8 for side in image.shape[2:]]
        top, left = (8 * int(torch.randint(0, limit + 1, ())) for limit in limits)
        result.append(image[:, :, top : top + CROP, left : left + CROP].contiguous())
    return result


def posterior_mean(part: nn.Module, output: Tensor) -> Tensor:
    """The latent that calibration aims at: the mean, where the encoder gives mean and deviation."""
    return output.chunk(2, dim=1)[0] if getattr(part, "posterior", "mode") == "sample" else output


@contextmanager
def learning(part: nn.Module, name: str, spec: QuantSpec, inputs: list[Tensor]) -> Iterator[list[PortSearch]]:
    """Searched learners on every quantized port and site of a part, in LEARN mode; all gone afterwards."""
    found = absorbers(part)
    groups = group_ports(quantized_sites(part, name, spec))
    searches = []
    paddings = {}
    for port_name, sites in groups.items():
        site = sites[0].site
        free = may_shift_for_free(site.port, site, found)
        may_shift = spec.shift == "all" or (spec.shift == "free" and free)
        paddings[port_name] = (getattr(site, "pads", ()), site.port.pads)
        searches.append(PortSearch(port_name, sites, may_shift))
    try:
        side = SEARCH_CROP if name == "vae_encoder" else SEARCH_CROP // 8

        def observe() -> None:
            for x in tqdm(inputs, desc=f"{name}: ranges"):
                part(x)

        def attempt() -> None:
            for x in tqdm(inputs[:SEARCH_INPUTS], desc=f"{name}: search"):
                part(x[:, :, :side, :side])

        search_ports(searches, observe, attempt, spec)
        for search in searches:
            learner = search.learner(search.best(), spec)
            search.port.learner = learner
            for named in search.sites:
                if learner.shifted:
                    claim_padding(named.site)
                    if search.port.pads:  # the padded zeros are part of the range now
                        learner.lows, learner.highs = learner.lows.clamp_max(0), learner.highs.clamp_min(0)
                named.site.learner = LearnedWeight(named.site.weight.shape[0], spec.weight_code_max)
        set_mode(part, Mode.LEARN)
        yield searches
    finally:
        set_mode(part, Mode.FLOAT)
        for search in searches:
            site_pads, port_pads = paddings[search.name]
            search.port.learner, search.port.pads = None, port_pads
            for named in search.sites:
                named.site.learner = None
                if isinstance(named.site, SiteConv):
                    named.site.pads = site_pads


def train(part: nn.Module, name: str, inputs: list[Tensor], targets: list[Tensor], spec: QuantSpec) -> None:
    """Stage LET, then stage LBQ; nothing to do where the spec asks for no steps."""
    ports = [module for module in part.modules() if isinstance(module, LearnedPort)]
    let = [port.log_scale for port in ports if spec.let_scale]
    let += [port.shift_spans for port in ports if port.shifted]
    if spec.let_steps and let:
        run_stage(part, f"{name}: LET", let, inputs, targets, spec.let_steps, spec.learning_rate)
    fix_boundaries(part)
    boundaries = [port.log_boundary for port in ports]
    boundaries += [module.log_boundary for module in part.modules() if isinstance(module, LearnedWeight)]
    if spec.lbq_steps:
        run_stage(part, f"{name}: LBQ", boundaries, inputs, targets, spec.lbq_steps, spec.learning_rate)


@torch.no_grad()
def fix_boundaries(part: nn.Module) -> None:
    """Between the stages: boundaries stop following and become parameters."""
    for module in part.modules():
        port = getattr(module, "port", None)
        learner = getattr(module, "learner", None)
        if port is not None and isinstance(learner, LearnedWeight) and isinstance(port.learner, LearnedPort):
            learner.freeze_boundary(learner.boundary(port.learner.weight(module.weight)))
    for module in part.modules():
        if isinstance(module, LearnedPort) and module.following:
            module.freeze_boundary(module.boundary())


def run_stage(
    part: nn.Module,
    title: str,
    parameters: list[nn.Parameter],
    inputs: list[Tensor],
    targets: list[Tensor],
    steps: int,
    learning_rate: float,
) -> None:
    """Adam with cosine decay, one crop a step."""
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.randperm(len(inputs)).tolist()
    with tqdm(range(steps), desc=title, unit="step") as progress:
        for step in progress:
            index = order[step % len(order)]
            output = posterior_mean(part, part(inputs[index]))
            loss = nn.functional.mse_loss(output, targets[index]) / targets[index].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.set_postfix_str(f"SNR {-10 * math.log10(max(float(loss.detach()), 1e-12)):.1f} dB")


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
