"""A calibration, which is INT8's, brought into the format of codes that is exported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.grids import Codes, Grid
from passionsr_trt.export.quantize.to_fp8 import to_fp8
from passionsr_trt.export.quantize.to_weights_only import to_weights_only


@torch.no_grad()
def to_format(calibration: Calibration, parts: Iterable[Part], codes: Codes) -> Calibration:
    """The same sites with scales for `codes`; parts: as they are before LET is folded into them.

    UserError where the calibration is of fewer bits than the format has.
    """
    if codes == calibration.quant.grid.codes:
        return calibration
    spec, weights_only = calibration.spec, codes.info.weights_only
    if spec.bits_weights != 8 or (spec.bits_activations != 8 and not weights_only):
        raise UserError(
            f"--format {codes.info.name} with a calibration of W{spec.bits_weights}A{spec.bits_activations}",
            "expected one of 8 bits",
            "calibrate again with bits_weights and bits_activations 8",
        )
    made = to_weights_only if weights_only else to_fp8
    return replace(calibration, quant=made(calibration.quant, parts, Grid.of(spec, codes)))
