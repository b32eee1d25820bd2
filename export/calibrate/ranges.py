"""Calibrate: run the float parts over the images, watch every port, turn ranges into scales."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.calibrate.data import data_digest, load_sources
from passionsr_trt.export.calibrate.distributed import begin_alike, merge, rank, shared
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import quantized_operands, quantized_sites
from passionsr_trt.export.quantize.devices import HOST, on_device, working_on
from passionsr_trt.export.quantize.hooks import hooked
from passionsr_trt.export.quantize.observers import Histogram, activation_boundary, weight_scales
from passionsr_trt.export.quantize.part import Model
from passionsr_trt.export.quantize.sites import Port
from torch import Tensor, nn
from tqdm import tqdm


@contextmanager
def observing(ports: Mapping[str, Port]) -> Iterator[dict[str, Histogram]]:
    """Histograms of every named port's input while the context lasts; hooks always go."""
    histograms = {name: Histogram() for name in ports}

    def observe(histogram: Histogram, _port: nn.Module, args: tuple[Tensor]) -> None:
        histogram.observe(args[0])

    with hooked(
        port.register_forward_pre_hook(partial(observe, histograms[name])) for name, port in ports.items()
    ):
        yield histograms


def activation_scales(histograms: Mapping[str, Histogram], spec: QuantSpec) -> dict[str, Tensor]:
    """What the calibration keeps of observed ports: Δ of each."""
    high = spec.activation_codes[1]
    quiet = bool(rank()) or not histograms
    return {
        f"{name}.activation_scale": torch.tensor(activation_boundary(histogram, spec) / high)
        for name, histogram in tqdm(histograms.items(), desc="boundaries", unit="port", disable=quiet)
    }


@torch.no_grad()
def calibrate(model: Model, spec: QuantSpec, files: list[Path], device: torch.device = HOST) -> Calibration:
    """Scales of every quantized site from the float model's activations on `files`.

    The parts are on `device` while it lasts.
    """
    chosen = [named for part in model.parts for named in quantized_sites(part, spec)]
    names = [named.name for part in model.parts for named in part.sites()]
    for pattern in spec.exclude:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"spec: exclude {pattern!r} matches no site", f"expected names like {names[-1]}")
    if not chosen:
        raise UserError("the spec leaves every site float", "expected at least one site to quantize")
    ports: dict[str, Port] = {named.port_name: named.site.port for named in chosen}
    for part in model.parts:
        ports |= quantized_operands(part, spec)
    with working_on(device, model.parts):
        with observing(ports) as histograms:
            begin_alike(histograms, lambda: model.run(on_device(load_sources(files[0], model), device)))
            for path in tqdm(shared(files), desc="calibrating", unit="image"):
                model.run(on_device(load_sources(path, model), device))
            merge(histograms)
        scales = {f"{named.name}.weight_scale": weight_scales(named.site.weight, spec) for named in chosen}
    tensors = activation_scales(histograms, spec) | on_device(scales, HOST)
    return Calibration(model.digest, spec, data_digest(files), tensors)
