"""The chain of three engines: image → latent → clean latent → image."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle, ModelInfo, OnnxBundle, PartInfo
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.runtime.memory import MemoryModel

Limits = tuple[tuple[int, int], tuple[int, int]]  # smallest and largest (height, width) that engines take
# ONNX Runtime's execution providers by our names; CUDA and TensorRT come with onnxruntime-gpu
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class Engine(Protocol):
    """One part, ready to run: float32 [B, C, H, W] in and out."""

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Whatever an input of this shape needs once, so that it is not counted into a run's time."""

    def run(self, x: np.ndarray) -> np.ndarray: ...


@dataclass
class Chain:
    """The three parts of one model. `seconds` holds the last run's time per part.

    limits: what sizes the engines take, None for any. batch: how many at once, None for any.
    memory: what they will need, None where nobody knows.
    """

    model: ModelInfo
    engines: dict[str, Engine]
    label: str
    seconds: dict[str, float] = field(default_factory=dict)
    limits: Limits | None = None
    batch: int | None = None
    memory: MemoryModel | None = None

    @classmethod
    def from_engines(
        cls, bundle: EngineBundle, threads: int = 0, cuda_graph: bool = True, cache: int = 0
    ) -> Chain:
        """Check and load engines; the backend's library must be installed, and a GPU there for TensorRT's.

        cache: bytes that compiled OpenVINO models may take in the user's cache folder, 0: none are kept.
        """
        if bundle.backend != "openvino":
            from passionsr_trt.runtime.backends.tensorrt.executor import TensorRTChain

            return TensorRTChain(bundle, cuda_graph)
        from passionsr_trt.runtime.backends.openvino import load_parts

        engines: dict[str, Engine] = dict(load_parts(bundle, threads, cache))
        label, memory = f"OpenVINO {bundle.label}", MemoryModel.of(bundle)
        return cls(bundle.model, engines, label, memory=memory, **fixed(bundle.parts))

    @classmethod
    def from_onnx(cls, bundle: OnnxBundle, threads: int = 0, provider: str = "cpu") -> Chain:
        """The same chain under ONNX Runtime, by one of its execution providers (onnx_engine.PROVIDERS)."""
        from passionsr_trt.runtime.backends.onnxruntime import OnnxEngine

        engines: dict[str, Engine] = {
            part.name: OnnxEngine(bundle.open(part), threads, provider) for part in bundle.parts
        }
        label = "QDQ" if bundle.spec is not None else bundle.precision.upper()
        place = "" if provider == "cpu" else f" {provider}"
        return cls(bundle.model, engines, f"ONNX Runtime{place} {label}", **fixed(bundle.parts))

    def run(self, image: np.ndarray, seed: int = 0) -> np.ndarray:
        """image [B,3,H,W] in [-1,1], sides multiples of 64 → [B,3,H,W], not clamped.

        `seed` is used where the model samples its posterior; equal seeds give equal noise in every backend.
        """
        return self.stages(image, seed)["image_out"]

    def run_part(self, name: str, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """One part alone on each piece, in order; its seconds add up."""
        for piece in pieces:
            self.engines[name].prepare(piece.shape)
            start = time.perf_counter()
            result = self.engines[name].run(piece)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            yield result

    def close(self) -> None:
        """Free what the engines hold; the chain cannot be used any more."""
        self.engines.clear()

    def stages(self, image: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
        """As `run`, with every part's input: image, latent, clean_latent, image_out."""
        tensors = {"image": image}
        encoded = self._timed("vae_encoder", image)
        tensors["latent"] = sample_posterior(encoded, self.model, seed)
        tensors["clean_latent"] = self._timed("unet", tensors["latent"])
        tensors["image_out"] = self._timed("vae_decoder", tensors["clean_latent"])
        return tensors

    def _timed(self, part: str, x: np.ndarray) -> np.ndarray:
        self.engines[part].prepare(x.shape)
        start = time.perf_counter()
        result = self.engines[part].run(x)
        self.seconds[part] = time.perf_counter() - start
        return result


def fixed(parts: list[PartInfo]) -> dict[str, Any]:
    """`limits` and `batch` of graphs that were exported for one size, or one batch; None where they take any."""
    batch, _colours, *size = next(part.input.shape for part in parts if part.name == "vae_encoder")
    limits = None if any(isinstance(side, str) for side in size) else ((size[0], size[1]), (size[0], size[1]))
    return {"limits": limits, "batch": None if isinstance(batch, str) else batch}


def sample_posterior(encoded: np.ndarray, model: ModelInfo, seed: int) -> np.ndarray:
    """The latent: the encoder's output itself, or mean + std · seeded noise for posterior `sample`."""
    if model.posterior == "mode":
        return encoded
    mean, deviation = np.split(encoded, 2, axis=1)
    noise = np.random.default_rng(seed).standard_normal(mean.shape, dtype=np.float32)
    return mean + deviation * noise


def check_same_model(first: ModelInfo, second: ModelInfo, what: str) -> None:
    """Refuse to compare two different models."""
    if first.digest != second.digest:
        raise UserError(
            f"{what}: made from model {second.digest[:12]}",
            f"expected {first.digest[:12]}, the other bundle's",
        )


def load_engines(
    folder: Path, threads: int = 0, provider: str | None = None, cuda_graph: bool = True, cache: int = 0
) -> Chain:
    """Chain of the engines in `folder`, or with a `provider` of the ONNX bundle there under ONNX Runtime."""
    if provider:
        return Chain.from_onnx(OnnxBundle.load(folder), threads, provider)
    return Chain.from_engines(EngineBundle.load(folder), threads, cuda_graph, cache)
