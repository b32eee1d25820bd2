"""Observe: ranges of ports from what they meet, and scales from ranges; of weights from the weights.

Requires nothing. Ensures a scale of each observed port (observers.py: what `activation_observer` picks), and of
each site's rows (what `weight_observer` picks). The method `range` is this alone, on whole pictures; of the others
only the operands of attention are observed, on crops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.export.model.hooks import hooked
from passionsr_trt.export.model.sites import NamedSite, Port
from passionsr_trt.export.quantize.grids import Grid
from passionsr_trt.export.quantize.observers import Histogram, activation_boundary, weight_scales
from passionsr_trt.export.quantize.values import PartQuant, PortQuant, SiteQuant
from torch import Tensor, nn


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


def observed(histograms: Mapping[str, Histogram], spec: QuantSpec, sites: Sequence[NamedSite] = ()) -> PartQuant:
    """The rows of observed ports, and of sites by their weights."""
    grid, ports = Grid.of(spec), {}
    entries = Bar(histograms.items(), desc="boundaries", unit="port") if histograms else ()
    for name, histogram in entries:
        boundary = activation_boundary(histogram, spec)
        ports[name] = PortQuant(torch.tensor(boundary / grid.high, device="cpu"))
    rows = {named.name: SiteQuant(weight_scales(named.site.weight, spec)) for named in sites}
    return PartQuant(ports, rows, grid)
