"""A calibration for INT8, brought into another format of codes.

FP8's steps grow with its numbers, so a boundary costs no precision as INT8's does: where INT8's learned boundary
clips, FP8's lies HEADROOM times as far out. What becomes of the rest:

| INT8's                     | FP8's                                                                          |
| -------------------------- | ------------------------------------------------------------------------------ |
| boundary u of a port       | HEADROOM·u; where a shift is dropped max|δ/s| more, as the port then sees x/s   |
| boundary of a weight's row | the row's largest |W·s|                                                         |
| LET's scale s              | s                                                                              |
| LET's shift δ              | 0: a centred grid is no finer where steps are relative                         |
| turned weights             | nothing: turns are of whole codes                                              |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.formats import Codes
from passionsr_trt.export.quantize.part import Part
from passionsr_trt.export.quantize.sites import NamedSite
from torch import Tensor

HEADROOM = 8.0  # a power of two moves no mantissa: it costs only what is smaller than 3e-5 of the boundary
SMALLEST = 1e-12  # of a row of zeros


@torch.no_grad()
def recast(calibration: Calibration, parts: Iterable[Part], codes: Codes) -> Calibration:
    """The same sites with scales for `codes`; parts: as they are before LET is folded into them.

    UserError where the calibration is of fewer bits than the format has.
    """
    if codes == calibration.codes:
        return calibration
    spec = calibration.spec
    if (spec.bits_weights, spec.bits_activations) != (8, 8):
        raise UserError(
            f"{codes.info.label} from a calibration of W{spec.bits_weights}A{spec.bits_activations}",
            "expected one of 8 bits",
            "calibrate again with bits_weights and bits_activations 8",
        )
    tensors = calibration.tensors
    _low, top = calibration.codes.of_activations(spec)
    found: dict[str, Tensor] = {}
    for part in parts:
        for named in part.sites():
            if f"{named.name}.weight_scale" in tensors:
                found[f"{named.name}.weight_scale"] = _reach(named, tensors) / codes.high
    for key, value in tensors.items():
        name, _dot, what = key.rpartition(".")
        if what == "activation_scale":
            found[key] = (value * top * HEADROOM + _moved_by(name, tensors)) / codes.high
        elif what in ("let_scale", "let_shift"):
            found[key] = value if what == "let_scale" else torch.zeros_like(value)
    return replace(calibration, tensors=found, codes=codes)


def _reach(named: NamedSite, tensors: dict[str, Tensor]) -> Tensor:
    """Every row's largest |W·s|."""
    weight = named.site.weight.data
    scale = tensors.get(f"{named.port_name}.let_scale")
    if scale is not None and scale.shape == weight.shape[1:2]:
        weight = weight * scale.reshape([1, -1] + [1] * (weight.dim() - 2))
    return weight.flatten(1).abs().amax(1).clamp_min(SMALLEST)


def _moved_by(port: str, tensors: dict[str, Tensor]) -> Tensor:
    """max|δ/s|: how much further from 0 a port's values lie without its shift."""
    scale, shift = tensors.get(f"{port}.let_scale"), tensors.get(f"{port}.let_shift")
    if scale is None or shift is None:
        return torch.zeros(())
    return (shift / scale).abs().max()
