"""OpenVINO: an ONNX part is rewritten for its kernels, compiled once to read its INT8 coverage, and proved.

What is stored is a graph: it loads on any CPU and is compiled for the CPU and the shape that it runs at (about
2 seconds for the demo's three parts).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.figures import Coverage
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, INT8
from passionsr_trt.engines.bundle.pictures import noise
from passionsr_trt.engines.bundle.targets import OpenVINOTarget
from passionsr_trt.engines.bundle.wiring import REFERENCE_SIZE, PartInfo, reference_size, sources_of
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.files import part_files
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.layers.coverage import measure, openvino_layers
from passionsr_trt.engines.openvino.blocks import SIDE, pixels_in_blocks
from passionsr_trt.engines.openvino.cpu import has_bfloat16
from passionsr_trt.engines.openvino.cpu_speed import (
    linears_faster_as_convolutions,
    phases_faster_apart,
    pixels_faster_in_blocks,
)
from passionsr_trt.engines.openvino.graph import (
    REVISION,
    attention_in_bfloat16,
    codes_before_enlargement,
    norms_by_channel,
)
from passionsr_trt.engines.openvino.half_range import limit_weights, limited_copy
from passionsr_trt.engines.openvino.linears import linears_as_convolutions
from passionsr_trt.engines.openvino.model import code_limit, compile_static, peak_activations, runs_in_bfloat16
from passionsr_trt.engines.openvino.phases import phases_apart
from passionsr_trt.engines.openvino.unsigned import shifts_as_unsigned_codes
from PIL import Image

PROOF_SIZE = 128
# INT8: two exact executors drift apart where float noise flips a code and later layers carry it on; a deep graph
# may pass this tolerance, and is then compared with what a change of 1e-3 in its input does
PROOF_TOLERANCE = {"float": 1e-4, "int8": 0.15}
Tensors = dict[str, np.ndarray]


class OpenVINOBuilder:
    """Builds one part at a time; call it as build_engines' `build_part`. `prove` runs what was built."""

    def __init__(self, bundle: OnnxBundle, float32: bool = False) -> None:
        """float32: all that is not INT8 stays in it. UserError for codes that OpenVINO has no kernels for."""
        for part in bundle.parts:
            if part.format in CODE_FORMATS and part.format != INT8.name:
                raise UserError(
                    f"{part.name}: {CODE_FORMATS[part.format].label}, for which OpenVINO has no CPU kernels",
                    "expected INT8 or float",
                    "use --backend tensorrt or tensorrt-rtx, or export with --format int8",
                )
        sites = [site for part in bundle.parts for site in part.sites]
        in_sub_pixel_form = any(site.quantized and site.macs != site.macs_written for site in sites)
        self.target = OpenVINOTarget(
            bfloat16=bundle.spec is not None and not float32 and has_bfloat16(),
            graph_revision=REVISION,
            weight_code_limit=code_limit(bundle.spec),
            convolutions=bundle.spec is not None and linears_faster_as_convolutions(),
            phases=in_sub_pixel_form and phases_faster_apart(),
            blocks=pixels_faster_in_blocks(),
        )

    def __call__(self, bundle: OnnxBundle, part: PartInfo, folder: Path) -> tuple[str, Coverage]:
        """Write one part into `folder` and compile it; returns the file's name and the engine's coverage.

        INT8 linears become convolutions (linears.py), convolutions in sub-pixel form one a phase (phases.py), and
        the last one computes blocks of pixels (blocks.py), where the target says so. Parts that run in bfloat16
        are left as they are otherwise; the others are rewritten (graph.py), and their attention takes bfloat16 if
        the target says so.
        """
        for path in part_files(open_graph(bundle, part)):
            shutil.copyfile(path, folder / path.name)
        model = onnx.load(str(folder / part.file), load_external_data=False)
        shifts_as_unsigned_codes(model, folder / part.file)
        if self.target.weight_code_limit is not None:
            onnx.save(model, str(folder / part.file))
            limit_weights(folder / part.file, self.target.weight_code_limit)
            model = onnx.load(str(folder / part.file), load_external_data=False)
        in_bfloat16 = runs_in_bfloat16(part, self.target)
        if self.target.convolutions:
            linears_as_convolutions(model, folder / part.file)
        if self.target.phases:
            phases_apart(model, folder / part.file)
        if self.target.blocks and part.multiple // (part.output.stride or 1) % SIDE == 0:
            pixels_in_blocks(model, folder / part.file, part.output.name)
        if not in_bfloat16:
            norms_by_channel(model)
            codes_before_enlargement(model)
            if self.target.bfloat16:
                attention_in_bfloat16(model)
        onnx.save(model, str(folder / part.file))
        size = bundle.model.size or reference_size(bundle.parts)
        compiled = compile_static(folder / part.file, part.shapes(size), bfloat16=in_bfloat16)
        coverage = measure(part, *openvino_layers(compiled, part.name))
        activations = peak_activations(compiled) * REFERENCE_SIZE**2 // prod(size)
        return part.file, replace(coverage, activation_bytes=activations)

    def prove(self, bundle: OnnxBundle, folder: Path) -> dict[str, float]:
        """Relative error of the engines in `folder` to the bundle in ONNX Runtime, on a smooth image; UserError
        where it is too large.

        The chain is run once, so that each part sees tensors of its own kind. A wrong kernel shows here. Engines
        whose codes were brought within a limit are judged by the bundle so changed; what that costs is printed.
        """
        limit = self.target.weight_code_limit
        sources = proof_sources(bundle)
        tensors = dict(sources)
        errors = {}
        for part in bundle.parts:
            path = bundle.open(part)
            with nullcontext(path) if limit is None else limited_copy(path, limit) as judge:
                session = reference_session(judge)
            feed = part.feed(tensors)
            expected = session.run(None, feed)[0]
            shapes = {name: x.shape for name, x in feed.items()}
            compiled = compile_static(folder / part.file, shapes, bfloat16=runs_in_bfloat16(part, self.target))
            error = _distance(compiled(feed)[0], expected)
            tolerance = PROOF_TOLERANCE["float" if bundle.spec is None else "int8"]
            if error > tolerance and bundle.spec is not None:  # how far apart may two right executors be?
                nearly = session.run(None, {name: x * np.float32(1 + 1e-3) for name, x in feed.items()})[0]
                tolerance = max(tolerance, 2 * _distance(nearly, expected))
            if not error <= tolerance:
                raise UserError(
                    f"{part.name}: OpenVINO's result is off by {error:.1e} from ONNX Runtime's",
                    f"expected ≤ {tolerance:.2g}: its kernels are wrong on this CPU",
                    "use the float engines and report this",
                )
            errors[part.name] = error
            tensors[part.output.name] = expected
        if limit is not None:
            found = tensors[bundle.parts[-1].output.name]
            print(
                f"this CPU's INT8 kernels saturate (no VNNI): weight codes brought within ±{limit}, "
                f"{psnr_to_bundle(bundle, sources, found):.1f} dB to the bundle's own result; "
                f'the other way is a calibration with "weight_code_limit": {limit} in the spec'
            )
        return errors


def proof_sources(bundle: OnnxBundle) -> Tensors:
    """The chain's sources for a smooth seeded image in [-1, 1], of 128×128 or what the bundle takes."""
    coarse = np.random.default_rng(0).integers(0, 256, (PROOF_SIZE // 16, PROOF_SIZE // 16, 3), np.uint8)
    smooth = Image.fromarray(coarse)
    size = bundle.model.size or reference_size(bundle.parts, PROOF_SIZE)
    found = {}
    for tensor in sources_of(bundle.parts).values():
        _batch, channels, height, width = tensor.at(size)
        if tensor.name == "noise":
            found[tensor.name] = noise(0, tensor.at(size))
        else:
            side = smooth.resize((width, height), Image.Resampling.BICUBIC)
            found[tensor.name] = np.asarray(side, np.float32).transpose(2, 0, 1)[None, :channels] / 127.5 - 1.0
    return found


def psnr_to_bundle(bundle: OnnxBundle, sources: Mapping[str, np.ndarray], found: np.ndarray) -> float:
    """PSNR in dB (peak 2: pictures are in [-1, 1]) of `found` to what the bundle itself makes of the sources."""
    tensors = dict(sources)
    for part in bundle.parts:
        feed = part.feed(tensors)
        tensors[part.output.name] = reference_session(bundle.open(part)).run(None, feed)[0]
    difference = np.clip(found, -1, 1) - np.clip(tensors[bundle.parts[-1].output.name], -1, 1)
    return float(10 * np.log10(4.0 / max(float(np.mean(difference**2)), 1e-12)))


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
