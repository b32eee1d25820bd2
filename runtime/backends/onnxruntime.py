"""ONNX graphs under ONNX Runtime: the float reference, and a baseline of the benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import ORT_GPU, install_hint
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.runtime.backends.host import HostExecutor, Shapes
from passionsr_trt.runtime.backends.rtx_provider import rtx_session
from passionsr_trt.runtime.core.chain import PROVIDERS, Arrays, Chain, fixed

RTX = "nv-tensorrt-rtx"


class OnnxEngine:
    """One graph."""

    def __init__(self, path: Path, threads: int = 0, provider: str = "cpu") -> None:
        chosen = [PROVIDERS[provider]]
        if provider == RTX:
            self._session = rtx_session(path)
            return
        if chosen[0] not in onnxruntime.get_available_providers():
            raise UserError(
                f"ONNX Runtime has no {chosen[0]} here",
                f"has {', '.join(onnxruntime.get_available_providers())}",
                f"`pip uninstall onnxruntime`, then {install_hint(ORT_GPU)}",
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

    def prepare(self, shapes: Shapes) -> None:
        """Nothing: ONNX Runtime takes any shape as it comes."""

    def run(self, inputs: Arrays) -> np.ndarray:
        return self._session.run(None, {name: np.ascontiguousarray(x) for name, x in inputs.items()})[0]


def open_chain(bundle: OnnxBundle, threads: int = 0, provider: str = "cpu") -> Chain:
    """The chain of an ONNX bundle."""
    engines = {part.name: OnnxEngine(open_graph(bundle, part), threads, provider) for part in bundle.parts}
    place = "" if provider == "cpu" else f" {provider}"
    name = f"ONNX Runtime{place} {bundle.label}"
    return Chain(bundle.model, bundle.parts, HostExecutor(engines), name, **fixed(bundle))
