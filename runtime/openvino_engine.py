"""One OpenVINO engine on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from passionsr_trt.engines.cpu import COMPILE_OPTIONS, openvino_int8_exact
from passionsr_trt.engines.errors import UserError


class OpenVINOEngine:
    """Compiles the IR for this CPU when it is made; `run` takes and gives one float32 array."""

    backend = "openvino"

    def __init__(self, path: Path, spec: dict[str, Any] | None, threads: int = 0) -> None:
        if spec is not None and not openvino_int8_exact(int(spec["weight_code_limit"])):
            raise UserError(
                f"this CPU's INT8 kernels saturate with weight codes up to ±{spec['weight_code_limit']} (no VNNI)",
                "expected exact INT8",
                'use the float engines, or a calibration with "weight_code_limit": 63',
            )
        core = ov.Core()
        options: dict[str, Any] = dict(COMPILE_OPTIONS)
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise UserError(f"{path}: OpenVINO cannot load it ({str(error).splitlines()[0]})") from error

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output as an array of its own."""
        self._request.infer([np.ascontiguousarray(x)])
        return np.array(self._request.get_output_tensor(0).data)
