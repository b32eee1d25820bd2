"""Which sites cost the most? Each port alone quantized, and each port alone float, by the picture's PSNR to float.

Sites that share a port are switched together, as the spec's `exclude` switches them. `within_budget` keeps the
most sensitive ports float, as few as reach a target.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.export.families.stable_diffusion.fold import Parts, posterior_mean
from passionsr_trt.export.onnx.bundle import site_infos
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.sites import Mode, NamedSite, group_ports, named_sites, set_mode
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class PortReport:
    """psnr_alone: with only this port quantized, dB. gain_if_float: of the quantized chain when it is not, dB."""

    port: str
    sites: list[str]
    macs_share: float
    psnr_alone: float
    gain_if_float: float


@dataclass(frozen=True)
class Sensitivity:
    """psnr: of the wholly quantized chain to the float one, dB, over all crops."""

    psnr: float
    ports: list[PortReport]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Probe:
    """A calibrated model whose ports are switched one by one; crops are images [1,3,H,W] in [-1,1].

    Outputs that a switch does not change are kept: a decoder port reruns the decoder alone.
    """

    @torch.no_grad()
    def __init__(self, parts: Parts, calibration: Calibration, crops: list[Tensor]) -> None:
        self.parts = dict(parts.items())
        self.ports: dict[str, list[NamedSite]] = {}
        self.part_of: dict[str, str] = {}
        self.macs: dict[str, int] = {}
        x = crops[0]
        for name, part in self.parts.items():
            calibration.apply(part, name, x)
            for info in site_infos(part, name, x):
                self.macs[info.name] = info.macs
            quantized = [named for named in named_sites(part, name) if named.site.weight_scale is not None]
            for port, sites in group_ports(quantized).items():
                self.ports[port], self.part_of[port] = sites, name
            x = posterior_mean(part, part(x))
        self.floats = self.inputs(crops, Mode.FLOAT)
        self.fakes = self.inputs(crops, Mode.FAKE)

    def inputs(self, crops: list[Tensor], mode: Mode) -> dict[str, list[Tensor]]:
        """Every part's inputs, and the chain's outputs under "out", all parts in one mode."""
        found = {}
        for name, part in self.parts.items():
            found[name] = crops
            set_mode(part, mode)
            crops = [posterior_mean(part, part(x)) for x in crops]
        return {**found, "out": crops}

    def psnr(self, outputs: list[Tensor]) -> float:
        """Of pictures in [-1, 1] to the float ones, over all crops: 10·log10(2² / MSE)."""
        pairs = zip(self.floats["out"], outputs, strict=True)
        error = [float((a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean()) for a, b in pairs]
        return 10 * math.log10(4 / max(sum(error) / len(error), 1e-12))

    @torch.no_grad()
    def run(self, background: Mode, different: Mode, ports: list[str]) -> float:
        """PSNR with all ports in one mode but `ports` in the other."""
        for part in self.parts.values():
            set_mode(part, background)
        for port in ports:
            for named in self.ports[port]:
                named.site.mode = named.site.port.mode = different
        known = self.floats if background is Mode.FLOAT else self.fakes
        names = list(self.parts)
        first = min((names.index(self.part_of[port]) for port in ports), default=0)
        tensors = known[names[first]]
        for name in names[first:]:
            tensors = [posterior_mean(self.parts[name], self.parts[name](x)) for x in tensors]
        return self.psnr(tensors)

    def report(self) -> Sensitivity:
        whole = self.psnr(self.fakes["out"])
        total = sum(self.macs.values())
        ports = []
        with tqdm(self.ports.items(), desc="sensitivity", unit="port") as progress:
            for port, sites in progress:
                alone = self.run(Mode.FLOAT, Mode.FAKE, [port])
                gain = self.run(Mode.FAKE, Mode.FLOAT, [port]) - whole
                names = [named.name for named in sites]
                ports.append(PortReport(port, names, sum(self.macs[name] for name in names) / total, alone, gain))
                progress.set_postfix_str(f"{port} {alone:.1f} dB alone")
        return Sensitivity(whole, sorted(ports, key=lambda entry: -entry.gain_if_float))

    def within_budget(self, ranking: list[str], target: float) -> tuple[list[str], float]:
        """The shortest head of `ranking` that, left float, reaches `target` dB; and what it reaches.

        PSNR rises with the number of float ports up to noise, so the head is found by bisection.
        """
        self._check(ranking, target)
        low, high = 0, len(ranking)
        reached: dict[int, float] = {}

        def attempt(count: int) -> float:
            return self.run(Mode.FAKE, Mode.FLOAT, ranking[:count])

        with tqdm(desc=f"budget {target:g} dB", unit="try") as progress:
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


def without(calibration: Calibration, sites: list[str]) -> Calibration:
    """The calibration with `sites` left float: its spec excludes them, their tensors are gone."""
    spec = replace(calibration.spec, exclude=(*calibration.spec.exclude, *sites))
    gone = tuple(f"{site}." for site in sites)
    kept = {key: value for key, value in calibration.tensors.items() if not key.startswith(gone)}
    return Calibration(calibration.model_digest, spec, calibration.data_digest, kept)


def draw(report: Sensitivity, path: Path) -> None:
    """Two rows over all ports in module order: PSNR alone, and what leaving one float gains."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ports = sorted(report.ports, key=lambda entry: entry.port)
    order = ("vae_encoder", "unet", "vae_decoder")
    ports.sort(key=lambda entry: order.index(entry.port.split(".")[0]))
    colours = dict(zip(order, ("#4c78a8", "#f58518", "#54a24b"), strict=True))
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
    bottom.set_xlabel("ports in the order of the chain: " + ", ".join(order))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in order]
    top.legend(handles, order, frameon=False, ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
