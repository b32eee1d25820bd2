"""OpenVINO: an ONNX part is rewritten for its kernels, compiled once to read its INT8 coverage, and proved.

What is stored is a graph: it loads on any CPU and is compiled for the CPU and the shape that it runs at (about
2 seconds for the demo's three parts).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from passionsr_trt.engines.bundle.bundles import REFERENCE_SIZE, OnnxBundle, PartInfo
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.graph.files import part_files
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.layers.coverage import Coverage, measure, openvino_layers
from passionsr_trt.engines.openvino.cpu import has_bfloat16
from passionsr_trt.engines.openvino.graph import attention_in_bfloat16, codes_before_enlargement, norms_by_channel
from passionsr_trt.engines.openvino.half_range import limit_weights, limited_copy
from passionsr_trt.engines.openvino.model import compile_static, peak_activations
from PIL import Image

PROOF_SIZE = 128
# INT8: two exact executors drift apart where float noise flips a code and later layers carry it on; a deep graph
# may pass this tolerance, and is then compared with what a change of 1e-3 in its input does
PROOF_TOLERANCE = {"float": 1e-4, "int8": 0.15}


def build_part(
    bundle: OnnxBundle, part: PartInfo, folder: Path, bfloat16: Collection[str] = (), limit: int | None = None
) -> tuple[str, Coverage]:
    """Write one part into `folder` and compile it; returns the file's name and the engine's coverage.

    bfloat16: parts that may run in it where they are not INT8; the others are rewritten (openvino_graph.py), and
    their attention takes bfloat16 if there are any such parts and the CPU has it. limit: weight codes are brought
    within ±limit (half_range.py).
    """
    for path in part_files(bundle.open(part)):
        shutil.copy2(path, folder / path.name)
    if limit is not None:
        limit_weights(folder / part.file, limit)
    if part.name not in bfloat16:
        model = onnx.load(str(folder / part.file), load_external_data=False)
        norms_by_channel(model)
        codes_before_enlargement(model)
        if bfloat16 and has_bfloat16():
            attention_in_bfloat16(model)
        onnx.save(model, str(folder / part.file))
    shape = part.input.at((REFERENCE_SIZE, REFERENCE_SIZE))
    compiled = compile_static(folder / part.file, shape, bfloat16=part.name in bfloat16)
    coverage = measure(part.sites, *openvino_layers(compiled))
    return part.file, replace(coverage, activation_bytes=peak_activations(compiled))


def prove_engines(
    bundle: OnnxBundle, folder: Path, bfloat16: Collection[str] = (), limit: int | None = None
) -> dict[str, float]:
    """Relative error of the engines in `folder` to the bundle in ONNX Runtime, on a smooth image; UserError where
    it is too large.

    The chain is run once, so that each part sees a tensor of its own kind. A wrong kernel shows here. Engines
    whose codes were brought within ±limit are judged by the bundle so changed; what that costs is printed.
    """
    x = whole = proof_image(bundle)
    errors = {}
    for part in bundle.parts:
        with graph_of(bundle, part, limit) as path:
            session = reference_session(path)
        expected = session.run(None, {part.input.name: x})[0]
        compiled = compile_static(folder / part.file, x.shape, bfloat16=part.name in bfloat16)
        error = _distance(compiled([x])[0], expected)
        tolerance = PROOF_TOLERANCE["float" if bundle.spec is None else "int8"]
        if error > tolerance and bundle.spec is not None:  # how far apart may two right executors be?
            nearly = session.run(None, {part.input.name: x * np.float32(1 + 1e-3)})[0]
            tolerance = max(tolerance, 2 * _distance(nearly, expected))
        if not error <= tolerance:
            raise UserError(
                f"{part.name}: OpenVINO's result is off by {error:.1e} from ONNX Runtime's",
                f"expected ≤ {tolerance:.2g}: its kernels are wrong on this CPU",
                "use the float engines and report this",
            )
        errors[part.name] = error
        x = expected[:, : bundle.model.latent_channels] if part.name == "vae_encoder" else expected
    if limit is not None:
        print(
            f"this CPU's INT8 kernels saturate (no VNNI): weight codes brought within ±{limit}, "
            f"{psnr_to_bundle(bundle, whole, x):.1f} dB to the bundle's own result; "
            f'the other way is a calibration with "weight_code_limit": {limit} in the spec'
        )
    return errors


def proof_image(bundle: OnnxBundle) -> np.ndarray:
    """A smooth seeded image [1, 3, H, W] in [-1, 1], of 128×128 or the size that the bundle takes."""
    coarse = np.random.default_rng(0).integers(0, 256, (PROOF_SIZE // 16, PROOF_SIZE // 16, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((PROOF_SIZE, PROOF_SIZE), Image.Resampling.BICUBIC)
    x = np.asarray(smooth, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0
    if bundle.fixed_size is not None:
        x = np.resize(x, (1, 3, *bundle.fixed_size))
    return x


@contextmanager
def graph_of(bundle: OnnxBundle, part: PartInfo, limit: int | None) -> Iterator[Path]:
    """The bundle's graph of a part, or a copy with its weight codes within ±limit."""
    path = bundle.open(part)
    if limit is None:
        yield path
    else:
        with limited_copy(path, limit) as copy:
            yield copy


def psnr_to_bundle(bundle: OnnxBundle, image: np.ndarray, found: np.ndarray) -> float:
    """PSNR in dB (peak 2: pictures are in [-1, 1]) of `found` to what the bundle itself makes of `image`."""
    x = image
    for part in bundle.parts:
        x = reference_session(bundle.open(part)).run(None, {part.input.name: x})[0]
        x = x[:, : bundle.model.latent_channels] if part.name == "vae_encoder" else x
    difference = np.clip(found, -1, 1) - np.clip(x, -1, 1)
    return float(10 * np.log10(4.0 / max(float(np.mean(difference**2)), 1e-12)))


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
