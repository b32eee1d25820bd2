"""Calibrate: run the float parts over the images, watch every port, turn ranges into scales."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import data_digest, load_sources
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import quantized_sites
from passionsr_trt.export.quantize.observers import Histogram, activation_boundary, weight_scales
from passionsr_trt.export.quantize.part import Model
from passionsr_trt.export.quantize.sites import NamedSite
from torch import Tensor, nn
from tqdm import tqdm


@contextmanager
def observing(ports: dict[str, NamedSite]) -> Iterator[dict[str, Histogram]]:
    """Histograms of every named port's input while the context lasts; hooks always go."""
    histograms = {name: Histogram() for name in ports}
    handles = []
    try:
        for name, named in ports.items():

            def hook(_module: nn.Module, args: tuple[Tensor], histogram: Histogram = histograms[name]) -> None:
                histogram.observe(args[0])

            handles.append(named.site.port.register_forward_pre_hook(hook))
        yield histograms
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def calibrate(model: Model, spec: QuantSpec, files: list[Path]) -> Calibration:
    """Scales of every quantized site from the float model's activations on `files`."""
    chosen = [named for part in model.parts for named in quantized_sites(part, spec)]
    names = [named.name for part in model.parts for named in part.sites()]
    for pattern in spec.exclude:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"spec: exclude {pattern!r} matches no site", f"expected names like {names[-1]}")
    if not chosen:
        raise UserError("the spec leaves every site float", "expected at least one site to quantize")
    ports = {named.port_name: named for named in chosen}
    with observing(ports) as histograms:
        for path in tqdm(files, desc="calibrating", unit="image"):
            model.run(load_sources(path, model))
    tensors: dict[str, Tensor] = {}
    high = spec.activation_codes[1]
    for name, histogram in tqdm(histograms.items(), desc="boundaries", unit="port"):
        tensors[f"{name}.activation_scale"] = torch.tensor(activation_boundary(histogram, spec) / high)
    for named in chosen:
        tensors[f"{named.name}.weight_scale"] = weight_scales(named.site.weight, spec)
    return Calibration(model.digest, spec, data_digest(files), tensors)
