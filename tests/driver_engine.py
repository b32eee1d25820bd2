"""A stand-in for an engine on a real CUDA driver: ONNX Runtime computes on the host, in the stream's own order.

    tensors → scratch memory → pinned memory → a host function of the stream → pinned memory → the output

Every step is an asynchronous call of the driver, so that streams, events, graphs and addresses are tried as with
an engine; of TensorRT it says nothing. It runs on a GPU, and on a driver that has none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from passionsr_trt.engines.bundle.wiring import PartInfo, picture_size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.tensorrt.library import DRIVER
from passionsr_trt.runtime.backends.host import Shapes
from passionsr_trt.runtime.backends.tensorrt.device import Device

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def driver_call(name: str, *arguments: Any) -> None:
    """A function of the driver's library, whatever binds it to Python; its ints are addresses and sizes."""
    library = ctypes.CDLL(DRIVER)
    given = [ctypes.c_void_p(each) if isinstance(each, int) else each for each in arguments]
    if status := getattr(library, name)(*given):
        raise UserError(f"{name} failed with {status}")


class DriverEngine:
    """`DeviceEngine` of an ONNX graph, built for at most `most` pixels at once. scratch: bytes for each."""

    def __init__(self, graph: onnx.ModelProto, part: PartInfo, device: Device, most: int) -> None:
        self.part, self.device, self.most, self.scratch = part, device, most, 24
        self.session = reference_session(graph, threads=1)
        self.most_scratch = self.scratch * most
        self.pinned: list[np.ndarray] = []
        self.kept: list[Any] = []  # host functions, which a stream may still call

    def context(self, shapes: Shapes) -> DriverContext:
        size, batch = picture_size(self.part.inputs, shapes), next(iter(shapes.values()))[0]
        if batch * prod(size) > self.most:
            raise UserError(f"{self.part.name}: shape {dict(shapes)} is outside what the engine was built for")
        shapes = {**shapes, self.part.output.name: self.part.output.at(size, batch)}
        return DriverContext(self, shapes, self.scratch * batch * prod(size))

    def close(self) -> None:
        for array in self.pinned:
            self.device.unpin(array)


class DriverContext:
    """An engine for inputs of one shape, on pinned memory of its own."""

    def __init__(self, engine: DriverEngine, shapes: Shapes, scratch: int) -> None:
        self.engine, self.scratch = engine, scratch
        self.host = {}
        for name, shape in shapes.items():
            self.host[name] = engine.device.pinned(shape)
            engine.pinned.append(self.host[name])
        self.function = HOST_FUNCTION(self.compute)
        engine.kept.append(self.function)

    def compute(self, _data: object) -> None:
        output = self.engine.part.output.name
        feed = {tensor.name: self.host[tensor.name] for tensor in self.engine.part.inputs}
        self.host[output][...] = self.engine.session.run(None, feed)[0]

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        self.addresses, self.scratch_at = dict(addresses), scratch

    def enqueue(self, stream: Any) -> None:
        handle, at = int(stream.handle), self.scratch_at
        for tensor in self.engine.part.inputs:
            array = self.host[tensor.name]
            driver_call("cuMemcpyDtoDAsync_v2", at, self.addresses[tensor.name], array.nbytes, handle)
            driver_call("cuMemcpyDtoHAsync_v2", array.ctypes.data, at, array.nbytes, handle)
            at += array.nbytes
        driver_call("cuLaunchHostFunc", handle, self.function, None)
        output = self.engine.part.output.name
        array = self.host[output]
        driver_call("cuMemcpyHtoDAsync_v2", self.addresses[output], array.ctypes.data, array.nbytes, handle)
