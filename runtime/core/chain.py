"""A chain of parts and what runs it: one loop for host arrays and for a GPU, for pictures, tiles and batches.

An executor takes jobs, some parts on one set of arrays, and gives them back in order. On a CPU a job is done when
it was submitted; on a GPU the next one is under way while one is waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from passionsr_trt.engines.bundle.bundles import Bundle
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, Size, chain_multiple, sources_of
from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.runtime.core.ordered import ordered

Arrays = Mapping[str, np.ndarray]
Limits = tuple[Size, Size]  # smallest and largest (height, width) that engines take
# ONNX Runtime's execution providers by our names; CUDA and TensorRT come with onnxruntime-gpu
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nv-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}


@dataclass(frozen=True)
class Done:
    """tensors: what was asked for, arrays of their own. seconds: part → its computation, no copies to a device."""

    tensors: dict[str, np.ndarray]
    seconds: dict[str, float]


class Executor(Protocol):
    """depth: jobs that may be under way at once. ragged: a rest of tiles may be a batch of its own size."""

    depth: int
    ragged: bool

    def submit(self, parts: Sequence[PartInfo], inputs: Arrays, keep: Collection[str]) -> Any:
        """Begin parts in their order on `inputs` [B, C, h, w]; a ticket for `collect`. keep: names of outputs."""

    def collect(self, ticket: Any) -> Done:
        """Wait for a job; each ticket once, in the order of submission."""

    def close(self) -> None: ...


class Memory(Protocol):
    """What engines will take. free: bytes that may be taken in all."""

    @property
    def free(self) -> int: ...

    def predict(self, picture: int, at_once: Mapping[str, int]) -> int:
        """Peak bytes for `picture` output pixels, of which each part gets `at_once` at once."""


@dataclass
class Chain:
    """The parts of one model, ready to run.

    limits: what sizes the engines take, None for any. batch: how many at once, None for any.
    memory: what they will need, None where nobody knows.
    """

    model: ModelInfo
    parts: tuple[PartInfo, ...]
    executor: Executor
    label: str
    limits: Limits | None = None
    batch: int | None = None
    memory: Memory | None = None

    @property
    def title(self) -> str:
        """`Real-ESRGAN general ×4, OpenVINO INT8` of a model that has a name, of another the label."""
        return f"{self.model.name}, {self.label}" if self.model.name else self.label

    @property
    def multiple(self) -> int:
        """Picture sides are multiples of it."""
        return chain_multiple(self.parts)

    @property
    def least(self) -> Size:
        """(height, width) that the engines take at least."""
        return (0, 0) if self.limits is None else self.limits[0]

    def padded(self, given: Size) -> Size:
        """What a picture of (height, width) `given` is enlarged and filled up to."""
        multiple, (height, width) = self.multiple, (side * self.model.upscale for side in given)
        return (
            max(-(-height // multiple) * multiple, self.least[0]),
            max(-(-width // multiple) * multiple, self.least[1]),
        )

    @property
    def output(self) -> str:
        """The name of the picture that the chain ends with."""
        return self.parts[-1].output.name

    def run(self, sources: Arrays, keep: Collection[str] | None = None) -> Done:
        """One batch of pictures, untiled: sources [B, C, h, w] → [B, 3, H, W] in about [-1, 1], not clamped.

        keep: tensors that are given back; default: the picture.
        """
        (done,) = self.stream(self.parts, [sources], keep)
        return done

    def run_part(self, part: PartInfo, inputs: Arrays) -> Done:
        """One part alone."""
        (done,) = self.stream([part], [inputs])
        return done

    def tensors(self, sources: Arrays) -> dict[str, np.ndarray]:
        """The sources and every part's output of one untiled run."""
        return {**sources, **self.run(sources, [part.output.name for part in self.parts]).tensors}

    def stream(
        self, parts: Sequence[PartInfo], jobs: Iterable[Arrays], keep: Collection[str] | None = None
    ) -> Iterator[Done]:
        """Some parts on job after job, in order; a job is asked for while the one before is under way."""
        keep, executor = (parts[-1].output.name,) if keep is None else keep, self.executor
        return ordered(jobs, lambda job: executor.submit(parts, job, keep), executor.collect, executor.depth)

    def close(self) -> None:
        """Free what the executor holds; the chain cannot be used any more."""
        self.executor.close()


def rescaled(chain: Chain, scale: int | None) -> Chain:
    """The same chain behind another enlargement than the model's own (None); its engines are shared.

    UsageError where a part sees the picture as it came: that one has the model's scale.
    """
    if scale is None or scale == chain.model.upscale:
        return chain
    if not any_scale(chain.parts):
        fact = f"--scale {scale}: this model enlarges by itself, {chain.model.upscale} times"
        raise UsageError(fact, f"expected {chain.model.upscale}", f"--outscale {scale} resizes the result")
    return replace(chain, model=replace(chain.model, upscale=scale))


def any_scale(parts: Sequence[PartInfo]) -> bool:
    """Do parts see the enlarged picture alone, however much it was enlarged?"""
    return "lr" not in sources_of(parts)


def fixed(bundle: Bundle) -> dict[str, Any]:
    """`limits` and `batch` of graphs that were exported for one size; None where they take any."""
    size = bundle.model.size
    return {"limits": None, "batch": None} if size is None else {"limits": (size, size), "batch": 1}
