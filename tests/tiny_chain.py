"""A chain of three parts for tests of devices: small, and the work that tries it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, Size, TensorInfo
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.onnxruntime import OnnxEngine
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.planning import Tiles
from passionsr_trt.runtime.core.tiling import run_picture

SOURCES = IMAGE, NOISE = TensorInfo("image", 3, 1), TensorInfo("noise", 4, 8)
LATENT, CLEAN, PICTURE = TensorInfo("latent", 4, 8), TensorInfo("clean", 4, 8), TensorInfo("picture", 3, 1)
TENSORS = ((IMAGE,), LATENT), ((LATENT, NOISE), CLEAN), ((CLEAN, IMAGE), PICTURE)
CODE = {
    "encoder": "latent = Conv<strides=[8, 8]>(image, w)",
    "middle": "x = Add(latent, noise) clean = Conv<pads=[1, 1, 1, 1]>(x, w)",
    "decoder": "x = ConvTranspose<strides=[8, 8]>(clean, w) picture = Add(x, image)",
}
PARTS = tuple(PartInfo(name, "", *tensors, 8) for name, tensors in zip(CODE, TENSORS, strict=True))
MODEL, MOST = ModelInfo("0", "tiny", 2, "none"), 1 << 14  # pixels at once


def graph_of(part: PartInfo) -> Any:
    takes, gives = (
        ", ".join(f"float[b, {x.channels}, h{x.stride}, w{x.stride}] {x.name}" for x in tensors)
        for tensors in (part.inputs, [part.output])
    )
    head = f'<ir_version: 9, opset_import: ["": 17]> {part.name} ({takes}) => ({gives})'
    model = onnx.parser.parse_model(f"{head} {{ {CODE[part.name]} }}")
    weight = np.random.default_rng(0).normal(0, 0.2, (4, 4, 3, 3) if part.name == "middle" else (4, 3, 8, 8))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
    return model


@cache
def host() -> Chain:
    """What is right."""
    engines = {part.name: OnnxEngine(graph_of(part), 1) for part in PARTS}
    return Chain(MODEL, PARTS, HostExecutor(engines), "right")


def sources(size: Size, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {x.name: random.uniform(-1, 1, x.at(size, batch)).astype(np.float32) for x in SOURCES}


def pictures(chain: Chain, *sizes: Size, batch: int = 1, most: int = 99, seed: int = 0) -> Iterator[np.ndarray]:
    """Of a stream that is given up after `most`."""
    jobs = (sources(size, seed + number, batch) for number, size in enumerate(sizes))
    yield from (done.tensors["picture"] for _, done in zip(range(most), chain.stream(PARTS, jobs), strict=False))


def begin(chain: Chain, given: dict[str, np.ndarray]) -> Any:
    """A ticket of one batch of pictures."""
    return chain.executor.submit(chain.parts, given, (chain.output,))


def tiles_of(batch: int, *sides: Size) -> Tiles:
    return Tiles(dict(zip(CODE, sides * 3, strict=False)), 8, batch, ragged=True)


def tiled(chain: Chain, size: Size, tiles: Tiles) -> Iterator[np.ndarray]:
    yield from run_picture(chain, sources(size), tiles).tensors.values()


def everything(chain: Chain) -> Iterator[np.ndarray]:
    """Sizes in turn, batches, a stream given up, tiles and a rest of them, more scratch memory than before."""
    yield from pictures(chain, *[(16, 24)] * 4, *[(24, 16), (16, 24)] * 2)
    yield from pictures(chain, *[(8, 16)] * 4, batch=3, most=2)
    yield from tiled(chain, (64, 56), tiles_of(4, (24, 24), (32, 24), (24, 32)))
    yield from pictures(chain, (16, 24), (64, 64), (16, 24), (72, 64), (16, 24), (16, 24))
    yield from chain.tensors(sources((16, 24))).values()


def compare(chain: Chain, work: Callable[[Chain], Iterator[np.ndarray]] = everything) -> None:
    for found, right in zip(work(chain), work(host()), strict=True):
        np.testing.assert_array_equal(found, right)


def same(chain: Chain, *sizes: Size) -> None:
    compare(chain, lambda chain: pictures(chain, *sizes))
