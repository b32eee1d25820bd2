"""OpenVINO: an ONNX part is rewritten for its kernels, compiled once to read its INT8 coverage, and proved.

What is stored is a graph: it loads on any CPU and is compiled for the CPU and the shape that it runs at (about
2 seconds for the demo's three parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import onnx_ir as ir
from passionsr_trt.engines.bundle.backends import Backend, OpenVINOTarget, TargetOptions
from passionsr_trt.engines.bundle.bundles import Coverage, OnnxBundle
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, INT8
from passionsr_trt.engines.bundle.wiring import REFERENCE_SIZE, PartInfo, reference_size
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.coverage import measure, openvino_layers
from passionsr_trt.engines.graph.rewriting import save
from passionsr_trt.engines.openvino.compile import (
    code_limit,
    compile_static,
    has_bfloat16,
    peak_activations,
    runs_in_bfloat16,
)
from passionsr_trt.engines.openvino.half_range import within_limit
from passionsr_trt.engines.openvino.passes import sequence
from passionsr_trt.engines.openvino.probes import (
    linears_faster_as_convolutions,
    phases_faster_apart,
    pixels_faster_in_blocks,
)
from passionsr_trt.engines.openvino.proof import prove_engines
from passionsr_trt.engines.openvino.revision import REVISION


class OpenVINOBuilder:
    """A Builder: graphs that are rewritten, and run by `prove`."""

    def __init__(self, _backend: Backend, bundles: Sequence[OnnxBundle], options: TargetOptions) -> None:
        """UsageError for options that are TensorRT's, UserError for codes that OpenVINO has no kernels for."""
        if options.compute_capabilities:
            raise UsageError("--compute-capability is for --backend tensorrt-rtx")
        if options.batch > 1:
            raise UsageError("--batch is for TensorRT", "", "OpenVINO's engines take any: `infer --batch`")
        (bundle,) = bundles
        for part in bundle.parts:
            if part.format in CODE_FORMATS and part.format != INT8.name:
                entry = CODE_FORMATS[part.format]
                lacking = (
                    "whose products are float" if entry.weights_only else "for which OpenVINO has no CPU kernels"
                )
                raise UserError(
                    f"{part.name}: {entry.label}, {lacking}",
                    "expected INT8 or float",
                    "use --backend tensorrt or tensorrt-rtx, or export with --format int8",
                )
        if bundle.precision == "bf16":
            raise UserError(
                f"{bundle.folder}: exported with --precision bf16",
                "expected fp32: OpenVINO takes bfloat16 by itself where the CPU has it",
                "use --backend tensorrt or tensorrt-rtx, or export with --precision fp32",
            )
        sites = [site for part in bundle.parts for site in part.sites]
        in_sub_pixel_form = any(site.quantized and site.macs != site.macs_written for site in sites)
        self.target = OpenVINOTarget(
            bfloat16=bundle.spec is not None and not options.float32 and has_bfloat16(),
            graph_revision=REVISION,
            weight_code_limit=code_limit(bundle.spec),
            convolutions=bundle.spec is not None and linears_faster_as_convolutions(),
            phases=in_sub_pixel_form and phases_faster_apart(),
            blocks=pixels_faster_in_blocks(),
        )

    def build(self, bundle: OnnxBundle, part: PartInfo, folder: Path) -> tuple[str, Coverage]:
        """Write one part, rewritten, into `folder` and compile it; the file's name and the engine's coverage."""
        with within_limit(open_graph(bundle, part), self.target.weight_code_limit) as path:
            model = ir.load(path)
            for rewriting in sequence(part, self.target):
                rewriting(model)
            save(model, folder / part.file)
        size = bundle.model.size or reference_size(bundle.parts)
        compiled = compile_static(
            folder / part.file, part.shapes(size), bfloat16=runs_in_bfloat16(part, self.target)
        )
        coverage = measure(part, *openvino_layers(compiled, part.name))
        activations = peak_activations(compiled) * REFERENCE_SIZE**2 // prod(size)
        return part.file, replace(coverage, activation_bytes=activations)

    def prove(self, bundle: OnnxBundle, folder: Path) -> dict[str, float]:
        """Relative error of the engines in `folder` to the bundle (proof.py); UserError where one is wrong."""
        return prove_engines(bundle, folder, self.target)
