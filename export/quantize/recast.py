"""A calibration for INT8, brought into another format of codes.

FP8's steps grow with its numbers, so a far boundary costs no precision: it lies HEADROOM times as far out as
INT8's, which clips.

| INT8's                     | FP8's                                                                        |
| -------------------------- | ---------------------------------------------------------------------------- |
| boundary u of a port       | HEADROOM·u; where a shift is dropped max|δ/s| more, as the port then sees x/s |
| boundary of a weight's row | where W·s is hit best, from its largest to twice that                        |
| LET's scale s              | s                                                                            |
| LET's shift δ              | 0: a centred grid is no finer where steps are relative                       |
| turned weights             | nothing: turns are of whole codes                                            |
| output gains and biases    | nothing: they make up for INT8's errors                                      |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.formats import Codes
from passionsr_trt.export.quantize.part import Part
from passionsr_trt.export.quantize.quantizer import fake_quantize
from passionsr_trt.export.quantize.sites import NamedSite
from torch import Tensor

HEADROOM = 8.0  # a power of two moves no mantissa: it costs only what is smaller than 3e-5 of the boundary
CANDIDATES = 16  # boundaries of a weight's row within a factor of two; behind it the mantissas repeat
SMALLEST = 1e-12  # of a row of zeros


@torch.no_grad()
def recast(calibration: Calibration, parts: Iterable[Part], codes: Codes) -> Calibration:
    """The same sites with scales for `codes`; parts: as they are before LET is folded into them.

    UserError where the calibration is of fewer bits than the format has.
    """
    if codes == calibration.codes:
        return calibration
    spec, tensors = calibration.spec, calibration.tensors
    if (spec.bits_weights, spec.bits_activations) != (8, 8):
        raise UserError(
            f"--format {codes.info.name} with a calibration of W{spec.bits_weights}A{spec.bits_activations}",
            "expected one of 8 bits",
            "calibrate again with bits_weights and bits_activations 8",
        )
    _low, top = calibration.codes.of_activations(spec)
    found: dict[str, Tensor] = {}
    for named in (named for part in parts for named in part.sites()):
        if f"{named.name}.weight_scale" in tensors:
            found[f"{named.name}.weight_scale"] = row_scales(_transformed(named, tensors), codes)
    for key, value in tensors.items():
        name, _dot, what = key.rpartition(".")
        if what == "activation_scale":
            found[key] = (value * top * HEADROOM + _moved_by(name, tensors)) / codes.high
        elif what == "let_scale":
            found[key] = value
        elif what == "let_shift":
            found[key] = torch.zeros_like(value)
    return replace(calibration, tensors=found, codes=codes)


def row_scales(weight: Tensor, codes: Codes) -> Tensor:
    """Δ [O] of a weight [O, ...]: of CANDIDATES boundaries from the row's largest up, argmin ‖w − Q(w)‖₂."""
    rows = weight.float().flatten(1)
    least = rows.abs().amax(1, keepdim=True).clamp_min(SMALLEST) / codes.high
    best = torch.full_like(least, float("inf"))
    scales = least
    for index in range(CANDIDATES):
        scale = least * 2 ** (index / CANDIDATES)
        error = (rows - fake_quantize(rows, scale, codes.low, codes.high, codes)).square().sum(1, keepdim=True)
        scales, best = torch.where(error < best, scale, scales), torch.minimum(error, best)
    return scales.flatten()


def _transformed(named: NamedSite, tensors: dict[str, Tensor]) -> Tensor:
    """W·s, which LET's fold will make of a weight."""
    weight, scale = named.site.weight.data, tensors.get(f"{named.port_name}.let_scale")
    if scale is None or scale.shape != weight.shape[1:2]:  # `apply` refuses one that does not fit
        return weight
    return weight * scale.reshape([1, -1] + [1] * (weight.dim() - 2))


def _moved_by(port: str, tensors: dict[str, Tensor]) -> Tensor:
    """max|δ/s|: how much further from 0 a port's values lie without its shift."""
    scale, shift = tensors.get(f"{port}.let_scale"), tensors.get(f"{port}.let_shift")
    if scale is None or shift is None:
        return torch.zeros((), device="cpu")
    return (shift / scale).abs().max()
