"""OpenVINO: ONNX part → IR (xml + bin), compiled once to read its INT8 coverage.

The IR is what is stored: it is small, loads on any CPU, and is compiled for the CPU that runs it.
"""

from __future__ import annotations

from pathlib import Path

import openvino as ov

from passionsr_trt.engines.bundle import OnnxBundle, PartInfo
from passionsr_trt.engines.coverage import Coverage, measure, openvino_layers
from passionsr_trt.engines.cpu import COMPILE_OPTIONS, openvino_int8_exact
from passionsr_trt.engines.errors import UserError

BACKEND = "openvino"


def check_cpu(spec: dict | None) -> None:
    """Refuse full-range INT8 weights on a CPU whose INT8 kernels saturate."""
    if spec is None:
        return
    limit = int(spec["weight_code_limit"])
    if not openvino_int8_exact(limit):
        raise UserError(
            f"this CPU's INT8 kernels saturate with weight codes up to ±{limit} (no VNNI)",
            "expected exact INT8",
            "calibrate with \"weight_code_limit\": 63 in the spec, or use the float engines",
        )


def build_part(bundle: OnnxBundle, part: PartInfo, folder: Path) -> tuple[str, Coverage]:
    """Convert one part into `folder`; returns the file's name and the coverage of the compiled engine."""
    core = ov.Core()
    try:
        model = core.read_model(bundle.open(part))
        file = f"{part.name}.xml"
        ov.save_model(model, folder / file, compress_to_fp16=False)
        compiled = core.compile_model(core.read_model(folder / file), "CPU", COMPILE_OPTIONS)
    except RuntimeError as error:
        raise UserError(f"{part.name}: OpenVINO cannot build it ({str(error).splitlines()[0]})") from error
    layers, kinds = openvino_layers(compiled)
    return file, measure(part.sites, layers, kinds)
