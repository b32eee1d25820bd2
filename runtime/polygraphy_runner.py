"""Per-part accuracy with polygraphy: float ONNX under ONNX Runtime against an engine, on real tensors."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.bundles import PartInfo
from passionsr_trt.runtime.chain import Engine
from polygraphy.backend.base import BaseRunner
from polygraphy.comparator import Comparator, CosineSimilarityCompareFunc, PsnrCompareFunc, SnrCompareFunc
from polygraphy.logger import G_LOGGER

METRICS = {
    "cosine_similarity": CosineSimilarityCompareFunc,
    "psnr": PsnrCompareFunc,
    "snr": SnrCompareFunc,
}


class EngineRunner(BaseRunner):
    """A polygraphy runner around anything with our Engine's `run`."""

    def __init__(self, engine: Engine, part: PartInfo, name: str) -> None:
        super().__init__(name=name)
        self.engine, self.part = engine, part

    def get_input_metadata_impl(self) -> Any:
        from polygraphy.common import TensorMetadata

        shape = [size if isinstance(size, int) else -1 for size in self.part.input.shape]
        return TensorMetadata().add(self.part.input.name, np.dtype(np.float32), shape=shape)

    def infer_impl(self, feed_dict: dict[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        start = time.perf_counter()
        output = self.engine.run(feed_dict[self.part.input.name])
        self.inference_time = time.perf_counter() - start
        return OrderedDict([(self.part.output.name, output)])


def compare_part(part: PartInfo, reference: Engine, tested: Engine, inputs: list[np.ndarray]) -> dict[str, float]:
    """polygraphy's cosine similarity, PSNR and SNR (dB) of one part, the mean over `inputs`."""
    runners = [EngineRunner(reference, part, "reference"), EngineRunner(tested, part, "tested")]
    feeds = [{part.input.name: array} for array in inputs]
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = Comparator.run(runners, data_loader=feeds)
        figures = {}
        for name, function in METRICS.items():
            accuracy = Comparator.compare_accuracy(results, compare_func=function())
            iterations = next(iter(accuracy[0].values()))
            values = [
                value for iteration in iterations for value in iteration[part.output.name].metric_values().values()
            ]
            figures[name] = float(np.mean(values))
    return figures
