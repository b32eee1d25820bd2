"""The float graphs with nearest enlargements in front of their convolutions, as the model's authors wrote them.

    python benchmarks/as_written.py MODEL -o FOLDER
    python benchmarks/as_written.py MODEL --images LOW_RES_PHOTOS -o FOLDER

What other tools start from, and what the sub-pixel form (export/model/sub_pixel.py) is measured against.
With pictures the graphs are INT8, by the ranges of two of them: this project's own without that form.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.calibrate.data import calibration_files
from passionsr_trt.export.calibrate.pipeline import calibrate
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.model.proof import prove
from passionsr_trt.export.model.sites import SiteConv
from passionsr_trt.export.model.sub_pixel import SubPixelConv
from passionsr_trt.export.onnx.bundle import export_bundle
from passionsr_trt.export.onnx.to_onnx import ExportPlan
from torch import Tensor, nn

TAPS = torch.tensor([[0, 0, 1, 0], [1, 0, -1, 0], [0, 1, 0, 0]], dtype=torch.float64)  # k from odd's and even's


class EnlargedConv(SiteConv):
    """x [B, C, h, w] → [B, O, 2h, 2w]: nearest ×2, then Conv 3×3.

    The port is behind the enlargement: enlarged behind DequantizeLinear OpenVINO 2026.4 gets codes wrong.
    """

    @classmethod
    def of(cls, site: SubPixelConv) -> EnlargedConv:
        """The same before anything was folded into `site`, proved; the nine taps are differences of the sums."""
        channels = site.weight.shape[0] // site.phases
        taps = site.weight.double().unflatten(0, (2, 2, channels)).permute(0, 4, 1, 5, 2, 3)
        weight = torch.einsum("jr,ku,ruoc->ocjk", TAPS, TAPS, taps.flatten(2, 3).flatten(0, 1))
        found = cls(weight.float(), None if site.bias is None else site.bias.data[:channels].clone(), pads=1)
        x = torch.randn(1, site.in_channels, 3, 4)
        prove("as written", site(x), found(x))
        return found

    def forward(self, x: Tensor, ported: bool = False) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"), ported)


@torch.no_grad()
def as_written(module: nn.Module) -> None:
    """Put every enlargement of a module back in front of its convolution."""
    for name, child in list(module.named_children()):
        if isinstance(child, SubPixelConv):
            setattr(module, name, EnlargedConv.of(child))
        else:
            as_written(child)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, help="INT8 instead of float: low-resolution pictures")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    for part in model.parts:
        as_written(part.module)
    calibration = None
    if arguments.images:
        spec = QuantSpec(method="range", activation_observer="minmax")
        calibration = calibrate(model, spec, calibration_files(arguments.images, 2))
    export_bundle(model, calibration, ExportPlan(), arguments.output, consume=True)


if __name__ == "__main__":
    main()
