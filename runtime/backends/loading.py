"""Open a chain: a bundle's backend is loaded when it is needed, and only that."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.manifest import MANIFEST
from passionsr_trt.engines.bundle.records import read_object
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.runtime.core.chain import Chain


@dataclass(frozen=True)
class OpenOptions:
    """threads: of a CPU, 0: all. cuda_graph: of a GPU. cache: bytes that compiled OpenVINO models may take in the
    user's cache folder, 0: none are kept. streams: pictures at once on a CPU, each with its share of the threads.
    """

    threads: int = 0
    cuda_graph: bool = True
    cache: int = 0
    streams: int = 1


def open_engines(
    bundle: EngineBundle, threads: int = 0, cuda_graph: bool = True, cache: int = 0, streams: int = 1
) -> Chain:
    """Check and load engines, by OpenOptions; the backend's library must be installed, and a GPU there for
    TensorRT's. UsageError for several streams of engines that run on a GPU.
    """
    runner = importlib.import_module(bundle.backend.runner)
    chain: Chain = runner.open_chain(bundle, OpenOptions(threads, cuda_graph, cache, streams))
    return chain


def open_onnx(bundle: OnnxBundle, threads: int = 0, provider: str = "cpu") -> Chain:
    """The same chain under ONNX Runtime, by one of its execution providers (chain.PROVIDERS)."""
    from passionsr_trt.runtime.backends.onnxruntime import open_chain

    return open_chain(bundle, threads, provider)


def check_one(streams: int, what: str) -> None:
    if streams > 1:
        raise UsageError(f"--streams {streams} with {what}", "expected OpenVINO engines", "leave it out")


def is_onnx(folder: Path) -> bool:
    """Is this an ONNX bundle? False for anything else, of which EngineBundle.load says what is wrong with it."""
    try:
        return read_object(folder / MANIFEST, "a manifest").get("kind") == OnnxBundle.kind
    except (FileNotFoundError, UserError):
        return False


def load_engines(
    folder: Path,
    threads: int = 0,
    provider: str | None = None,
    cuda_graph: bool = True,
    cache: int = 0,
    streams: int = 1,
) -> Chain:
    """Chain of the engines in `folder`, or with a `provider` of the ONNX bundle there under ONNX Runtime."""
    if provider:
        check_one(streams, f"--provider {provider}")
        return open_onnx(OnnxBundle.load(folder), threads, provider)
    return open_engines(EngineBundle.load(folder), threads, cuda_graph, cache, streams)
