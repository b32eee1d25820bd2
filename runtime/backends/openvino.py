"""One OpenVINO engine on the CPU, compiled for each shape it meets; the last few are kept, on disk many more."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.openvino.compiled_cache import CompiledCache, model_key
from passionsr_trt.engines.openvino.model import code_limit, compile_static, failure, import_compiled
from tqdm import tqdm

KEPT_SHAPES = 3


@dataclass(frozen=True)
class OpenVINOOptions:
    """threads: 0 for all. bfloat16: what is not INT8 may run in it. built_limit: the range that the build brought
    weight codes into, None for the spec's. cache: where compiled models are kept, None: nowhere.
    """

    threads: int = 0
    bfloat16: bool = False
    built_limit: int | None = None
    cache: CompiledCache | None = None


class OpenVINOEngine:
    """`run` takes and gives one float32 array; a new shape costs a compilation first.

    digest: the file's SHA-256, by which compiled models are kept; without it none are.
    `code_limit`: the range that weight codes are brought into when they are compiled, None: as they are.
    """

    def __init__(
        self,
        path: Path,
        spec: dict[str, Any] | None,
        options: OpenVINOOptions | None = None,
        digest: str = "",
    ) -> None:
        self._path, self._options, self._digest = path, options or OpenVINOOptions(), digest
        self.code_limit = code_limit(spec, self._options.built_limit)
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def compile(self, shape: tuple[int, ...], **more: Any) -> Any:
        """The compiled model for a shape; `more`: OpenVINO properties."""
        own = self._options
        return compile_static(self._path, shape, own.threads, own.bfloat16, limit=self.code_limit, properties=more)

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Have the compiled model of a shape at hand: among the last few, from the cache, or compiled now."""
        request = self._requests.pop(shape, None)
        if request is None:
            while len(self._requests) >= KEPT_SHAPES:
                self._requests.popitem(last=False)
            request = self._model(shape).create_infer_request()
        self._requests[shape] = request

    def _model(self, shape: tuple[int, ...]) -> Any:
        own, cache = self._options, self._options.cache if self._digest else None
        if cache is None:
            return self.compile(shape)
        key = model_key(
            self._digest, shape, threads=own.threads, bfloat16=own.bfloat16, code_limit=self.code_limit
        )
        kept = cache.load(key)
        if kept is not None and (model := import_compiled(kept, own.threads, own.bfloat16)) is not None:
            return model
        name = f"compiling {self._path.stem} for {'×'.join(map(str, shape))}"
        with tqdm(total=1, desc=name, unit="model", leave=False) as progress:
            model = self.compile(shape)
            cache.keep(key, model.export_model().getvalue())
            progress.update()
        return model

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output as an array of its own; UserError where OpenVINO fails, of memory above all."""
        self.prepare(x.shape)
        request = self._requests[x.shape]
        try:
            request.infer([np.ascontiguousarray(x)])
        except RuntimeError as error:
            raise failure(f"{self._path}: OpenVINO cannot run it on {list(x.shape)}", error) from error
        return np.array(request.get_output_tensor(0).data)


def load_parts(bundle: EngineBundle, threads: int = 0, cache: int = 0) -> dict[str, OpenVINOEngine]:
    """The checked engines of a bundle by part; cache: bytes that compiled models may take on disk, 0: none.

    A line on stderr where this CPU needs other weight codes than the engines were built with.
    """
    engines = {}
    for part in bundle.parts:
        options = OpenVINOOptions(
            threads=threads,
            bfloat16=part.name in bundle.target.get("bfloat16", ()),
            built_limit=bundle.target.get("weight_code_limit"),
            cache=CompiledCache(cache) if cache else None,
        )
        engines[part.name] = OpenVINOEngine(bundle.open(part), bundle.spec, options, bundle.digest(part))
    limit = next(iter(engines.values())).code_limit
    if limit is not None:
        print(
            f"{bundle.folder}: built for a CPU with VNNI, which this one lacks; weight codes are brought within "
            f"±{limit}: `build-engines` here says what that costs",
            file=sys.stderr,
        )
    return engines
