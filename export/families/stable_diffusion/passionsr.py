"""PassionSR's calibrated checkpoints → our Calibration: its asymmetric grids in the symmetric, deployable form.

A layer of theirs, in ldm naming under `model.model.`: `scale_factor` s and `offset` per input channel (a conv has
x̃ = (x − offset)/s, a linear x̃ = (x + offset)/s), `act_quantizer_0.x_min/x_max` [l, u] of x̃, and
`weight_quantizer_0.x_min/x_max` per output channel of W·s; a `split` layer has `_1` of both for the second half
of dimension 1: the channels of a conv, the tokens of a linear.

| theirs                                | ours                                                                  |
| ------------------------------------- | --------------------------------------------------------------------- |
| [l, u] per tensor, s and offset       | the channel's own range [lo, hi] in x: δ = its centre, s = half of it |
| halves of a conv's channels           | exact: part of each channel's s and δ                                 |
| halves of a linear's tokens           | their union                                                           |
| layers that read one tensor (q, k, v) | one port: the union of their ranges                                   |
| asymmetric weights, halves            | ±max(|min|, |max|), relative to max|W·s|; the larger half             |
| quantized q·k, softmax·v, biases      | float                                                                 |

With δ in the centre of [lo, hi] the symmetric grid has the steps of the asymmetric one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.ldm_names import vae_path
from passionsr_trt.export.families.stable_diffusion.checkpoints import read_checkpoint
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.families.stable_diffusion.ldm_names import unet_path
from passionsr_trt.export.model.part import Model
from passionsr_trt.export.model.sites import NamedSite, group_ports
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.chosen import quantized_sites
from passionsr_trt.export.quantize.grids import Grid
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant
from torch import Tensor

PREFIX = "model.model."
SITE_NAMES = ((".ff.net.0.proj", ".ff.proj"), (".ff.net.2", ".ff.out"))
LEAST = 1e-6  # of the widest channel's range: a channel that never moves


@dataclass
class Report:
    """What became of the file: counts of what was kept and of what could not be."""

    sites: int = 0
    missing: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        result = [f"{self.sites} sites imported"]
        if self.missing:
            some = ", ".join(self.missing[:3]) + (", …" if len(self.missing) > 3 else "")
            result.append(f"{len(self.missing)} sites are not in the files and stay float: {some}")
        return result + [f"{count} × {what}" for what, count in self.lost.items()]


@dataclass(frozen=True)
class SourceLayer:
    """One layer of theirs as ranges: lows, highs [C] of x; scale [C]; clip [O]: weight boundary / max|W·s|."""

    lows: Tensor
    highs: Tensor
    scale: Tensor
    clip: Tensor


def import_calibration(
    model: OneStepModel, built: Model, unet: Path, vae: Path, bits: int
) -> tuple[Calibration, Report]:
    """Both files of one calibrated model, whose parts are `built`; UserError for any others."""
    report = Report()
    layers: dict[str, SourceLayer] = {}
    for path, module, rename in ((unet, model.unet, unet_path), (vae, model.vae, vae_path)):
        if not hasattr(module, "state_dict"):
            raise UserError(
                f"{model.folder}: its VAE is {model.vae_kind}", "expected AutoencoderKL, as PassionSR's"
            )
        tensors = strip(read_checkpoint(path), path)
        weights = module.state_dict()
        for old in sorted(key.removesuffix(".scale_factor") for key in tensors if key.endswith(".scale_factor")):
            name = rename(old, module.config)
            weight = weights.get(f"{name}.weight")
            if weight is None:
                raise UserError(
                    f"{path}: layer {old!r} is not in the model", "expected a model of one architecture"
                )
            layers[site_name(name, module is model.unet)] = read_layer(tensors, old, weight, path, report)
        count_lost(tensors, weights, rename, module.config, report)
    spec = QuantSpec(bits_weights=bits, bits_activations=bits, method="learned", rounding="nearest")
    quant = PartQuant(grid=Grid.of(spec))
    for part in built.parts:
        for sites in group_ports(quantized_sites(part, spec)).values():
            quant |= port_quant(sites, layers, spec, report)
    if not quant.sites:
        raise UserError(f"{unet}: none of its layers is a site of the model", "expected the model it was made for")
    source = hashlib.sha256(f"{sha256(unet)} {sha256(vae)}".encode()).hexdigest()
    return Calibration(model.digest, spec, source, quant), report


def strip(state: Any, path: Path) -> dict[str, Tensor]:
    """The state dict without its wrappers' prefix."""
    if isinstance(state, dict) and any(str(key).startswith(PREFIX) for key in state):
        return {key.removeprefix(PREFIX): value for key, value in state.items() if isinstance(value, Tensor)}
    raise UserError(f"{path}: no key starts with {PREFIX!r}", "expected a calibrated checkpoint of PassionSR")


def site_name(path: str, of_unet: bool) -> str:
    """diffusers' module path → our site's name."""
    if of_unet:
        for theirs, ours in SITE_NAMES:
            path = path.replace(theirs, ours)
        return f"unet.{path}"
    if path == "post_quant_conv":
        return "vae_decoder.post_quant_conv"
    return f"vae_{path}".replace("mid_block.attentions.0.to_", "mid_block.attentions.0.attention.to_")


def read_layer(tensors: dict[str, Tensor], name: str, weight: Tensor, path: Path, report: Report) -> SourceLayer:
    """weight: the float one, [O, C, ...]."""
    try:
        scale = tensors[f"{name}.scale_factor"].double()
        offset = tensors[f"{name}.offset"].double().flatten()
        bounds = [_bounds(tensors, f"{name}.act_quantizer_{half}") for half in _halves(tensors, name)]
        sides = [_bounds(tensors, f"{name}.weight_quantizer_{half}") for half in _halves(tensors, name)]
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing", "expected a calibrated checkpoint") from None
    is_conv, scale = scale.dim() == 4, scale.flatten()
    channels = weight.shape[1]
    if scale.shape != (channels,) or offset.shape != (channels,) or not bool((scale > 0).all()):
        raise UserError(f"{path}: {name}.scale_factor does not fit", f"expected {channels} positive values")
    shift = offset if is_conv else -offset
    if not is_conv and bool(offset.any()):
        report.lost[
            "linear layer whose offset the release adds with the wrong sign: imported with the right one"
        ] += 1
    first = torch.arange(channels) < channels // 2 if len(bounds) == 2 else torch.ones(channels, dtype=torch.bool)
    if is_conv and len(bounds) == 2:
        low, high = (torch.where(first, bounds[0][end], bounds[1][end]) for end in (0, 1))
    else:
        low, high = min(pair[0] for pair in bounds), max(pair[1] for pair in bounds)
        if len(bounds) == 2:
            report.lost["linear layer split by tokens: one range for both halves"] += 1
    products = (weight.double() * scale.reshape(1, -1, *[1] * (weight.dim() - 2))).abs()
    masks = [first, ~first] if len(sides) == 2 else [first]
    clips = [
        torch.maximum(side[0].abs(), side[1].abs()) / products[:, mask].flatten(1).amax(1).clamp(min=1e-12)
        for side, mask in zip(sides, masks, strict=True)
    ]
    clip = torch.stack(clips).amax(0).clamp(max=1.0)
    return SourceLayer(shift + scale * low, shift + scale * high, scale, clip)


def _halves(tensors: dict[str, Tensor], name: str) -> list[int]:
    return [0, 1] if f"{name}.act_quantizer_1.x_max" in tensors else [0]


def _bounds(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """x_min and x_max: a scalar of an activation, [O] of a weight."""
    low, high = (tensors[f"{name}.{end}"].double().flatten() for end in ("x_min", "x_max"))
    return (low[0], high[0]) if low.numel() == 1 else (low, high)


def port_quant(
    sites: list[NamedSite], layers: dict[str, SourceLayer], spec: QuantSpec, report: Report
) -> PartQuant:
    """The rows of one port and its sites; none where a site of it is not in the files."""
    grid = Grid.of(spec)
    if missing := [named.name for named in sites if named.name not in layers]:
        report.missing += missing
        return PartQuant(grid=grid)
    own = [layers[named.name] for named in sites]
    if len(own) > 1:
        report.lost["port read by several layers: one range for all"] += 1
    lows = torch.stack([layer.lows for layer in own]).amin(0)
    highs = torch.stack([layer.highs for layer in own]).amax(0)
    half = (highs - lows) / 2
    half = half.clamp(min=LEAST * float(half.max()))
    typical = half.log().mean().exp()
    low_code, high_code = spec.activation_codes
    scale = half / typical
    shift = (lows + highs) / 2 + half / (high_code - low_code)  # codes reach one further down
    port = PortQuant(2 * typical / (high_code - low_code), let=Let(scale, shift))
    rows = {}
    for named, layer in zip(sites, own, strict=True):
        weight = named.site.weight.double()
        most = (weight * named.site.along_inputs(scale)).abs().flatten(1).amax(1)
        boundary = (most * named.site.per_row(layer.clip)).clamp(min=1e-12)
        rows[named.name] = SiteQuant(boundary / spec.weight_code_max)
        report.sites += 1
    return PartQuant({sites[0].port_name: port}, rows, grid).map(lambda tensor: tensor.float().contiguous())


def count_lost(
    tensors: dict[str, Tensor], weights: dict[str, Tensor], rename: Any, config: Any, report: Report
) -> None:
    """What has no place in our graph, and norms that are not the model's."""
    for key, value in tensors.items():
        if key.endswith("bias_quantizer.x_max"):
            report.lost["quantized bias: float"] += 1
        elif key.endswith(("act_quantizer_q.x_max", "act_quantizer_w.x_max")):
            report.lost["quantized product of attention: float"] += 1
        elif key.endswith("scale_factor_vw"):
            report.lost["scale per token: left out, it would tie the model to one size"] += 1
        path, _dot, kind = key.rpartition(".")
        own = weights.get(f"{rename(path, config)}.{kind}") if kind in ("weight", "bias") else None
        if own is not None and (
            own.shape != value.shape or not torch.allclose(own, value.float(), rtol=1e-2, atol=1e-3)
        ):
            report.lost["norm that differs from the model's: was it made for these weights?"] += 1
