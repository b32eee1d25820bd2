"""One ONNX graph under ONNX Runtime: the float reference, and a baseline of the benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from passionsr_trt.engines.errors import UserError


class OnnxEngine:
    """`run` takes and gives one float32 array; execution providers as ONNX Runtime names them."""

    backend = "onnxruntime"

    def __init__(
        self, path: Path, threads: int = 0, providers: tuple[str, ...] = ("CPUExecutionProvider",)
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        missing = set(providers) - set(onnxruntime.get_available_providers())
        if missing:
            raise UserError(
                f"ONNX Runtime has no {missing.pop()} here", f"has {onnxruntime.get_available_providers()}"
            )
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # its exception types are private and many
            raise UserError(f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: np.ascontiguousarray(x)})[0]
