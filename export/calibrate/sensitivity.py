"""Which sites cost the most? Each port alone quantized, and each port alone float, by the picture's PSNR to float.

Sites that share a port are switched together, as the spec's `exclude` switches them. `within_budget` keeps the
most sensitive ports float, as few as reach a target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.hooks import attached, hooked
from passionsr_trt.export.model.part import Model
from passionsr_trt.export.model.sites import NamedSite, group_ports
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.fold import fold
from passionsr_trt.export.quantize.quantizers import FakePort, fake_quantizers
from torch import Tensor, nn


@dataclass(frozen=True)
class PortReport:
    """psnr_alone: with only this port quantized, dB. gain_if_float: of the quantized chain when it is not, dB.
    clipped: in the quantized chain, the share of the port's values that lies beyond its boundary.
    """

    port: str
    sites: list[str]
    macs_share: float
    psnr_alone: float
    gain_if_float: float
    clipped: float


@dataclass(frozen=True)
class Sensitivity:
    """psnr: of the wholly quantized chain to the float one, dB, over all crops."""

    psnr: float
    ports: list[PortReport]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Probe:
    """A calibrated model whose ports are switched one by one; crops are the sources of small pictures.

    Outputs that a switch does not change are kept: a port of the last part reruns that part alone.
    """

    @torch.no_grad()
    def __init__(self, model: Model, calibration: Calibration, crops: list[dict[str, Tensor]]) -> None:
        self.parts = model.parts
        self.ports: dict[str, list[NamedSite]] = {}
        self.part_of: dict[str, int] = {}
        self.macs: dict[str, int] = {}
        self.fakes: dict[Any, nn.Module] = {}
        tensors = dict(crops[0])
        for index, part in enumerate(self.parts):
            quant = fold(part, calibration.of_part(part), tensors)
            self.fakes |= fake_quantizers(part, quant)
            for info in part.site_infos(tensors):
                self.macs[info.name] = info.macs
            quantized = [named for named in part.sites() if named.name in quant.sites]
            for port, sites in group_ports(quantized).items():
                self.ports[port], self.part_of[port] = sites, index
            tensors[part.output.name] = part.run(tensors)
        self.of_ports = {port: self._fakes_of(sites) for port, sites in self.ports.items()}
        self.float_run = self._run(0, crops, {})
        self.quantized_run, self.clipped = self._quantized_run(crops)

    def _fakes_of(self, sites: list[NamedSite]) -> dict[Any, nn.Module]:
        """What is attached to a port and its sites."""
        return {key: self.fakes[key] for key in (sites[0].site.port, *(named.site for named in sites))}

    def _run(
        self, first: int, known: list[dict[str, Tensor]], quantizers: Mapping[Any, nn.Module]
    ) -> list[dict[str, Tensor]]:
        """Every crop's tensors, the outputs of the parts from the `first` on computed anew."""
        crops = [dict(tensors) for tensors in known]
        with attached(quantizers):
            for part in self.parts[first:]:
                for tensors in crops:
                    tensors[part.output.name] = part.run(tensors)
        return crops

    def _quantized_run(self, crops: list[dict[str, Tensor]]) -> tuple[list[dict[str, Tensor]], dict[str, float]]:
        """Every crop's tensors in the quantized chain, and of each port the share of its values that clips."""
        shares: dict[str, list[float]] = {port: [] for port in self.ports}

        def count(port: str, fake: FakePort, args: tuple[Tensor]) -> None:
            shares[port].append(fake.clipped(args[0]))

        fakes = {port: self.fakes[sites[0].site.port] for port, sites in self.ports.items()}
        with hooked(fake.register_forward_pre_hook(partial(count, port)) for port, fake in fakes.items()):
            run = self._run(0, crops, self.fakes)
        return run, {port: sum(found) / len(found) for port, found in shares.items()}

    def psnr(self, crops: list[dict[str, Tensor]]) -> float:
        """Of pictures in [-1, 1] to the float ones, over all crops: 10·log10(2² / MSE)."""
        name = self.parts[-1].output.name
        pairs = zip(self.float_run, crops, strict=True)
        error = [float((a[name].clamp(-1, 1) - b[name].clamp(-1, 1)).square().mean()) for a, b in pairs]
        return 10 * math.log10(4 / max(sum(error) / len(error), 1e-12))

    @torch.no_grad()
    def quantized(self, ports: Sequence[str]) -> float:
        """PSNR with these ports alone quantized."""
        fakes = {key: fake for port in ports for key, fake in self.of_ports[port].items()}
        return self.psnr(self._run(self._first(ports), self.float_run, fakes))

    @torch.no_grad()
    def without(self, ports: Sequence[str]) -> float:
        """PSNR with all but these ports quantized."""
        left = {key for port in ports for key in self.of_ports[port]}
        fakes = {key: fake for key, fake in self.fakes.items() if key not in left}
        return self.psnr(self._run(self._first(ports), self.quantized_run, fakes))

    def _first(self, ports: Sequence[str]) -> int:
        """The first part that a switch of these ports changes."""
        return min((self.part_of[port] for port in ports), default=0)

    def report(self) -> Sensitivity:
        everything = self.psnr(self.quantized_run)
        total = sum(self.macs.values())
        ports = []
        with Bar(self.ports.items(), desc="sensitivity", unit="port") as progress:
            for port, sites in progress:
                alone = self.quantized([port])
                gain = self.without([port]) - everything
                names = [named.name for named in sites]
                share = sum(self.macs[name] for name in names) / total
                ports.append(PortReport(port, names, share, alone, gain, self.clipped[port]))
                progress.set_postfix_str(f"{port} {alone:.1f} dB alone")
        return Sensitivity(everything, sorted(ports, key=lambda entry: -entry.gain_if_float))

    def within_budget(self, ranking: list[str], target: float) -> tuple[list[str], float]:
        """The shortest head of `ranking` that, left float, reaches `target` dB; and what it reaches.

        PSNR rises with the number of float ports up to noise, so the head is found by bisection.
        """
        self._check(ranking, target)
        low, high = 0, len(ranking)
        reached: dict[int, float] = {}

        def attempt(count: int) -> float:
            return self.without(ranking[:count])

        with Bar(desc=f"budget {target:g} dB", unit="try") as progress:
            while low < high:
                middle = (low + high) // 2
                reached[middle] = attempt(middle)
                progress.set_postfix_str(f"{middle} float: {reached[middle]:.1f} dB")
                progress.update()
                low, high = (low, middle) if reached[middle] >= target else (middle + 1, high)
        return ranking[:low], reached[low] if low in reached else attempt(low)

    def _check(self, ranking: list[str], target: float) -> None:
        unknown = [port for port in ranking if port not in self.ports]
        if unknown:
            raise UserError(f"{unknown[0]}: not a quantized port of this model", "expected one of its own")
        if not math.isfinite(target):
            raise UserError(f"a budget of {target} dB", "expected a finite number")


def draw(report: Sensitivity, parts: Sequence[str], path: Path) -> None:
    """Two rows over all ports in module order: PSNR alone, and what leaving one float gains."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ports = sorted(report.ports, key=lambda entry: (parts.index(entry.port.split(".")[0]), entry.port))
    colours = {name: f"C{index}" for index, name in enumerate(parts)}
    shades = [colours[entry.port.split(".")[0]] for entry in ports]
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(11, 5.5), sharex=True, layout="constrained")
    top.scatter(range(len(ports)), [entry.psnr_alone for entry in ports], c=shades, s=14)
    top.axhline(report.psnr, color="black", linewidth=0.8)
    top.set_ylabel("PSNR to float, dB\nonly this quantized")
    top.text(len(ports), report.psnr, f"all: {report.psnr:.1f}", ha="right", va="bottom", fontsize=8)
    bottom.bar(range(len(ports)), [entry.gain_if_float for entry in ports], color=shades, width=1.0)
    bottom.set_ylabel("gain, dB\nonly this float")
    names = {entry.port: index for index, entry in enumerate(ports)}
    for entry in report.ports[:5]:
        bottom.annotate(entry.port, (names[entry.port], entry.gain_if_float), fontsize=7, rotation=12)
    bottom.set_xlabel("ports in the order of the chain: " + ", ".join(parts))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in parts]
    top.legend(handles, parts, frameon=False, ncols=len(parts), fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
