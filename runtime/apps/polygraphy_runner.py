"""Per-part accuracy with polygraphy: float ONNX under ONNX Runtime against an engine, on real tensors."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.runtime.core.chain import Chain
from polygraphy.backend.base import BaseRunner
from polygraphy.comparator import Comparator, CosineSimilarityCompareFunc, PsnrCompareFunc, SnrCompareFunc
from polygraphy.logger import G_LOGGER

METRICS = {
    "cosine_similarity": CosineSimilarityCompareFunc,
    "psnr": PsnrCompareFunc,
    "snr": SnrCompareFunc,
}


class PartRunner(BaseRunner):
    """A polygraphy runner around one part of a chain."""

    def __init__(self, chain: Chain, part: PartInfo, name: str) -> None:
        super().__init__(name=name)
        self.chain, self.part = chain, part

    def get_input_metadata_impl(self) -> Any:
        from polygraphy.common import TensorMetadata

        found = TensorMetadata()
        for tensor in self.part.inputs:
            sides = (-1, -1) if tensor.stride else ()
            found = found.add(tensor.name, np.dtype(np.float32), shape=(-1, tensor.channels, *sides))
        return found

    def infer_impl(self, feed_dict: dict[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        done = self.chain.run_part(self.part, feed_dict)
        self.inference_time = sum(done.seconds.values())
        return OrderedDict(done.tensors)


def compare_part(
    part: PartInfo, reference: Chain, tested: Chain, captured: list[dict[str, np.ndarray]]
) -> dict[str, float]:
    """polygraphy's cosine similarity, PSNR and SNR (dB) of one part, the mean over captured chains' tensors."""
    runners = [PartRunner(reference, part, "reference"), PartRunner(tested, part, "tested")]
    feeds = [part.feed(tensors) for tensors in captured]
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
