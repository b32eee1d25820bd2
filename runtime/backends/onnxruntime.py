"""One ONNX graph under ONNX Runtime: the float reference, and a baseline of the benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.runtime.chain import PROVIDERS


class OnnxEngine:
    """`run` takes and gives one float32 array."""

    def __init__(self, path: Path, threads: int = 0, provider: str = "cpu") -> None:
        chosen = [PROVIDERS[provider]]
        if chosen[0] not in onnxruntime.get_available_providers():
            raise UserError(
                f"ONNX Runtime has no {chosen[0]} here",
                f"has {', '.join(onnxruntime.get_available_providers())}",
                "`pip uninstall onnxruntime`, then `pip install passionsr-trt[gpu]`",
            )
        # TensorRT leaves the nodes that it does not take to CUDA
        chosen += ["CUDAExecutionProvider"] if provider == "tensorrt" else []
        self._session = reference_session(path, threads, chosen)
        if provider != "cpu" and self._session.get_providers()[0] != chosen[0]:
            raise UserError(
                f"ONNX Runtime fell back to {self._session.get_providers()[0]}",
                f"expected {chosen[0]}",
                "CUDA's or TensorRT's libraries are missing; see `passionsr-trt doctor`",
            )
        self._input = self._session.get_inputs()[0].name

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Nothing: ONNX Runtime takes any shape as it comes."""

    def run(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: np.ascontiguousarray(x)})[0]
