"""OpenVINO engines on the CPU, compiled for each shape they meet; the last few are kept, on disk many more."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.backends import OpenVINOTarget
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import EngineError, UsageError, UserError
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.openvino.cache import CompiledCache, model_key
from passionsr_trt.engines.openvino.compile import (
    code_limit,
    compile_static,
    failure,
    import_compiled,
    runs_in_bfloat16,
)
from passionsr_trt.runtime.backends.host import HostExecutor, HostMemory, Shapes
from passionsr_trt.runtime.backends.loading import OpenOptions
from passionsr_trt.runtime.core.chain import Arrays, Chain, fixed

KEPT_SHAPES = 3
Key = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class OpenVINOOptions:
    """threads: 0 for all. bfloat16: what is not INT8 may run in it. built_limit: the range that the build brought
    weight codes into, None for the spec's. cache: where compiled models are kept, None: nowhere.
    streams: runs at once, each with its share of the threads.
    """

    threads: int = 0
    bfloat16: bool = False
    built_limit: int | None = None
    cache: CompiledCache | None = None
    streams: int = 1


class Compiled:
    """A compiled model, and requests of it for as many runs at once as it has streams."""

    def __init__(self, model: Any, content: np.ndarray | None, streams: int) -> None:
        """content: what has to live as long as the model does."""
        self._model, self._content = model, content
        self._idle = [model.create_infer_request() for _ in range(streams)]

    def infer(self, inputs: Arrays) -> np.ndarray:
        """The output as an array of its own; of more threads at once than streams the last ones fail."""
        request = self._idle.pop()
        try:
            request.infer({name: np.ascontiguousarray(x) for name, x in inputs.items()})
            return np.array(request.get_output_tensor(0).data)
        finally:
            self._idle.append(request)


class CheckedFile:
    """The path of a part's graph once its files are found to be the manifest's; EngineError where they are not."""

    def __init__(self, bundle: EngineBundle, part: PartInfo) -> None:
        self._bundle, self._part = bundle, part
        self._lock = threading.Lock()
        self._path: Path | None = None

    def __call__(self) -> Path:
        with self._lock:
            if self._path is None:
                try:
                    self._path = open_graph(self._bundle, self._part)
                except UserError as error:
                    raise EngineError(error.fact, error.expected, error.fix) from None
            return self._path


class OpenVINOEngine:
    """One part on the CPU; new shapes cost a compilation first. Different engines may be prepared at once; one may
    run on as many threads at once as it has streams, while another thread prepares it for the next shape.

    file: checks the part's files and gives the graph's. It is asked before they are read; a compiled model of the
    cache has a check of its options.
    digest: the files' SHA-256, by which compiled models are kept; without it none are.
    `code_limit`: the range that weight codes are brought into when they are compiled, None: as they are.
    """

    _compiling = threading.Lock()  # one compilation at a time: each takes every core, and memory of its own

    def __init__(
        self,
        file: Callable[[], Path],
        spec: QuantSpec | None,
        options: OpenVINOOptions | None = None,
        digest: str = "",
    ) -> None:
        self.file, self._options, self._digest = file, options or OpenVINOOptions(), digest
        self.code_limit = code_limit(spec, self._options.built_limit)
        self._kept: OrderedDict[Key, Compiled] = OrderedDict()
        self._changing = threading.Lock()  # of what is kept

    def compile(self, shapes: Shapes, **more: Any) -> Any:
        """The compiled model for some shapes; `more`: OpenVINO properties."""
        options = self._options
        return compile_static(
            self.file(),
            shapes,
            options.threads,
            options.bfloat16,
            limit=self.code_limit,
            properties=more,
            streams=options.streams,
        )

    def prepare(self, shapes: Shapes) -> None:
        """Have the compiled model of these shapes at hand: among the last few, from the cache, or compiled now."""
        self._compiled(shapes)

    def _compiled(self, shapes: Shapes) -> Compiled:
        key = tuple(sorted(shapes.items()))
        with self._changing:
            compiled = self._kept.get(key)
            if compiled is not None:
                self._kept.move_to_end(key)
                return compiled
            while len(self._kept) >= KEPT_SHAPES:
                self._kept.popitem(last=False)
        compiled = Compiled(*self._model(shapes), self._options.streams)
        with self._changing:
            self._kept[key] = compiled
        return compiled

    def _model(self, shapes: Shapes) -> tuple[Any, np.ndarray | None]:
        """The compiled model, and what has to live as long as it does."""
        options, cache = self._options, self._options.cache if self._digest else None
        if cache is None:
            with self._compiling:
                return self.compile(shapes), None
        more = {"streams": options.streams} if options.streams > 1 else {}
        key = model_key(
            self._digest,
            shapes,
            threads=options.threads,
            bfloat16=options.bfloat16,
            code_limit=self.code_limit,
            **more,
        )
        content = cache.load(key)
        if content is not None:
            model = import_compiled(content, options.threads, options.bfloat16, options.streams)
            if model is not None:
                return model, content
        sizes = ", ".join("×".join(map(str, shape)) for shape in shapes.values())
        with (
            self._compiling,
            Bar(total=1, desc=f"compiling {self.file().stem} for {sizes}", leave=False) as progress,
        ):
            model = self.compile(shapes)
            cache.keep(key, model.export_model().getvalue())
            progress.update()
        return model, None

    def run(self, inputs: Arrays) -> np.ndarray:
        """The output as an array of its own; UserError where OpenVINO fails, of memory above all."""
        shapes = {name: x.shape for name, x in inputs.items()}
        compiled = self._compiled(shapes)
        try:
            return compiled.infer(inputs)
        except RuntimeError as error:
            raise failure(f"{self.file()}: OpenVINO cannot run it on {shapes}", error) from error


def open_chain(bundle: EngineBundle, options: OpenOptions) -> Chain:
    """The chain of a bundle's engines. Their files are checked before anything runs, beside the first preparation,
    of which the largest part's comes first.

    UsageError for more streams than threads.

    A line on stderr where this CPU needs other weight codes than the engines were built with.
    """
    threads, streams = options.threads, options.streams
    most = threads or os.cpu_count() or 1
    if streams > most:
        raise UsageError(f"--streams {streams}", f"expected at most {most}, a thread each")
    target = bundle.target
    assert isinstance(target, OpenVINOTarget)
    engines = {}
    sizes = {part.name: sum(entry["size"] for entry in bundle.listed(part).values()) for part in bundle.parts}
    for part in sorted(bundle.parts, key=lambda part: sizes[part.name], reverse=True):
        compiled_with = OpenVINOOptions(
            threads=threads,
            bfloat16=runs_in_bfloat16(part, target),
            built_limit=target.weight_code_limit,
            cache=CompiledCache(options.cache) if options.cache else None,
            streams=streams,
        )
        file = CheckedFile(bundle, part)
        engines[part.name] = OpenVINOEngine(file, bundle.spec, compiled_with, bundle.digest(part))
    limit = next(iter(engines.values())).code_limit
    if limit is not None:
        print(
            f"{bundle.folder}: built for a CPU with VNNI, which this one lacks; weight codes are brought within "
            f"±{limit}: `build-engines` here says what that costs",
            file=sys.stderr,
        )
    memory, label = HostMemory.of(bundle, streams), f"OpenVINO {bundle.label}"
    executor = HostExecutor(engines, [engine.file for engine in engines.values()], streams)
    return Chain(bundle.model, bundle.parts, executor, label, memory=memory, **fixed(bundle))
