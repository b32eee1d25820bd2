"""CUDA graphs through cuda-python's driver bindings, for either device: pycuda binds none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.common.extras import extra_of, install_hint


class CapturedGraph:
    """An instantiated CUDA graph and the stream that it runs on."""

    def __init__(self, driver: Any, executable: Any, stream: Any) -> None:
        self._driver, self._executable, self._stream = driver, executable, stream

    def launch(self) -> None:
        (status,) = self._driver.cuGraphLaunch(self._executable, self._stream)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise UserError(f"a CUDA graph could not be launched ({status.name})", "", "run with --no-cuda-graph")

    def free(self) -> None:
        (status,) = self._driver.cuGraphExecDestroy(self._executable)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise UserError(f"a CUDA graph could not be freed ({status.name})", "", "see `passionsr-trt doctor`")


@cache  # told once
def graph_driver() -> Any:
    """cuda.bindings.driver, or None: a line on stderr says that there will be no graphs, and why."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except (ImportError, OSError) as error:
        fix = f"{install_hint(extra_of('cuda.bindings'))} (cuda-python 12.6.2 or newer)"
        print(f"warning: no CUDA graphs, each part is launched anew ({reason_of(error)}); {fix}", file=sys.stderr)
        return None


def capture(driver: Any, work: Callable[[], None], handle: int) -> CapturedGraph | None:
    """What `work` puts on the stream `handle` as one graph; None where a UserError or CUDA says that it cannot be.

    Whatever is raised inside, a KeyboardInterrupt too, the stream captures no more and no graph is left.
    """
    done, stream = driver.CUresult.CUDA_SUCCESS, driver.CUstream(handle)
    graph = None
    try:
        try:
            # calls of other threads that a capture forbids do not spoil it
            mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            if driver.cuStreamBeginCapture(stream, mode)[0] != done:
                return None
            work()
        finally:  # where nothing was captured it answers an error, and that is all
            status, graph = driver.cuStreamEndCapture(stream)
        if status != done:
            return None
        status, executable = driver.cuGraphInstantiate(graph, 0)
        return CapturedGraph(driver, executable, stream) if status == done else None
    except UserError:  # the part is enqueued without a graph, and fails there once more where it must
        return None
    finally:
        if graph is not None and int(graph):
            driver.cuGraphDestroy(graph)
