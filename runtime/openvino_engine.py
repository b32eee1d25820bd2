"""One OpenVINO engine on the CPU, compiled for each shape it meets; the last few are kept."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.openvino_model import check_cpu, compile_static, failure

KEPT_SHAPES = 3


class OpenVINOEngine:
    """`run` takes and gives one float32 array; a new shape costs a compilation first."""

    backend = "openvino"

    def __init__(self, path: Path, spec: dict[str, Any] | None, threads: int = 0, bfloat16: bool = False) -> None:
        check_cpu(spec)
        self._path, self._threads, self._bfloat16 = path, threads, bfloat16
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def compile(self, shape: tuple[int, ...], **more: Any) -> Any:
        """The compiled model for a shape; `more`: OpenVINO properties."""
        return compile_static(self._path, shape, self._threads, self._bfloat16, **more)

    def prepare(self, shape: tuple[int, ...]) -> Any:
        """The infer request for a shape, compiled on first use."""
        request = self._requests.pop(shape, None)
        if request is None:
            while len(self._requests) >= KEPT_SHAPES:
                self._requests.popitem(last=False)
            request = self.compile(shape).create_infer_request()
        self._requests[shape] = request
        return request

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output as an array of its own; UserError where OpenVINO fails, of memory above all."""
        request = self.prepare(x.shape)
        try:
            request.infer([np.ascontiguousarray(x)])
        except RuntimeError as error:
            raise failure(f"{self._path}: OpenVINO cannot run it on {list(x.shape)}", error) from error
        return np.array(request.get_output_tensor(0).data)
