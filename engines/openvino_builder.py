"""OpenVINO: an ONNX part is rewritten for its kernels, compiled once to read its INT8 coverage, and proved.

What is stored is a graph: it loads on any CPU and is compiled for the CPU and the shape that it runs at (about
2 seconds for the demo's three parts).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from passionsr_trt.engines.bundle import REFERENCE_SIZE, OnnxBundle, PartInfo
from passionsr_trt.engines.coverage import Coverage, measure, openvino_layers
from passionsr_trt.engines.cpu import has_bfloat16
from passionsr_trt.engines.errors import UserError
from passionsr_trt.engines.graph_files import part_files
from passionsr_trt.engines.memory import peak_activations
from passionsr_trt.engines.openvino_graph import attention_in_bfloat16, codes_before_enlargement, norms_by_channel
from passionsr_trt.engines.openvino_model import compile_static
from PIL import Image

PROOF_SIZE = 128
# INT8: two exact executors drift apart where float noise flips a code and later layers carry it on; a deep graph
# may pass this tolerance, and is then compared with what a change of 1e-3 in its input does
PROOF_TOLERANCE = {"float": 1e-4, "int8": 0.15}


def build_part(
    bundle: OnnxBundle, part: PartInfo, folder: Path, bfloat16: Collection[str] = ()
) -> tuple[str, Coverage]:
    """Write one part into `folder` and compile it; returns the file's name and the engine's coverage.

    bfloat16: parts that may run in it where they are not INT8; the others are rewritten (openvino_graph.py), and
    their attention takes bfloat16 if there are any such parts and the CPU has it.
    """
    source = bundle.open(part)
    for path in part_files(source):
        shutil.copy2(path, folder / path.name)
    if part.name not in bfloat16:
        model = onnx.load(str(source), load_external_data=False)
        norms_by_channel(model)
        codes_before_enlargement(model)
        if bfloat16 and has_bfloat16():
            attention_in_bfloat16(model)
        onnx.save(model, str(folder / part.file))
    shape = part.input.at((REFERENCE_SIZE, REFERENCE_SIZE))
    compiled = compile_static(folder / part.file, shape, bfloat16=part.name in bfloat16)
    coverage = measure(part.sites, *openvino_layers(compiled))
    return part.file, replace(coverage, activation_bytes=peak_activations(compiled))


def prove_engines(bundle: OnnxBundle, folder: Path, bfloat16: Collection[str] = ()) -> dict[str, float]:
    """Relative error of the engines in `folder` to the bundle in ONNX Runtime, on a smooth image; UserError where
    it is too large.

    The chain is run once, so that each part sees a tensor of its own kind. A wrong kernel shows here.
    """
    coarse = np.random.default_rng(0).integers(0, 256, (PROOF_SIZE // 16, PROOF_SIZE // 16, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((PROOF_SIZE, PROOF_SIZE), Image.Resampling.BICUBIC)
    x = np.asarray(smooth, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0
    errors = {}
    for part in bundle.parts:
        if part.name == "vae_encoder" and isinstance(part.input.shape[2], int):
            x = np.resize(x, part.input.shape)  # a bundle of one fixed size
        path = bundle.open(part)
        compiled = compile_static(folder / part.file, x.shape, bfloat16=part.name in bfloat16)
        found = compiled([x])[0]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        expected = session.run(None, {part.input.name: x})[0]
        error = _distance(found, expected)
        limit = PROOF_TOLERANCE["float" if bundle.spec is None else "int8"]
        if error > limit and bundle.spec is not None:  # how far apart may two right executors be?
            nearly = session.run(None, {part.input.name: x * np.float32(1 + 1e-3)})[0]
            limit = max(limit, 2 * _distance(nearly, expected))
        if not error <= limit:
            raise UserError(
                f"{part.name}: OpenVINO's result is off by {error:.1e} from ONNX Runtime's",
                f"expected ≤ {limit:.2g}: its kernels are wrong on this CPU",
                "use the float engines and report this",
            )
        errors[part.name] = error
        x = expected[:, : bundle.model.latent_channels] if part.name == "vae_encoder" else expected
    return errors


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
