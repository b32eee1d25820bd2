"""Compile one ONNX part for the CPU at one fixed shape, and ask this CPU what its kernels compute exactly.

OpenVINO reads our ONNX graphs as they are. Shapes are fixed in the graph before it is read, because of two
faults seen in OpenVINO 2026.4.1 that both leave no message:
1. with dynamic H and W, a bias-free convolution whose output feeds both a residual sum and a quantizer
   gives wrong numbers (relative error 0.3 against ONNX Runtime, 0.01 with fixed shapes);
2. `Model.reshape` on a dynamic model leaves most weights' DequantizeLinear unfused: float kernels.

Is this CPU's INT8 exact? Asked of the engine itself, not of a list of instruction sets. Without VNNI, oneDNN adds
pairs of 8-bit products in 16 bits, which saturate when weights use the full range. A convolution whose exact
result is known shows it in milliseconds, whatever made the difference: an old CPU, a virtual machine that hides
VNNI, or ONEDNN_MAX_CPU_ISA.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino as ov
from onnx import GraphProto, TensorProto, helper, numpy_helper
from openvino.frontend import FrontEndManager
from passionsr_trt.engines.bundle.backends import OpenVINOTarget
from passionsr_trt.engines.bundle.formats import HALF_RANGE, SIGNED, CodeRange
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.openvino.core import the_core
from passionsr_trt.engines.openvino.half_range import within_limit

Shapes = Mapping[str, Sequence[int]]
# float32 where it is not INT8: CPUs with AMX or AVX512-BF16, and ARM, would default to half precision
COMPILE_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def code_limit(spec: QuantSpec | None, built: int | None = None) -> int | None:
    """The range that this CPU needs weight codes brought into, None where they are exact as they are.

    spec: the bundle's, None for a float one; built: the range that engines were brought into already.
    UserError where even ±63 is not exact.
    """
    if spec is None:
        return None
    codes = spec.weight_codes if built is None else CodeRange.within(built)
    if openvino_int8_exact(codes):
        return None
    if codes.high > HALF_RANGE.high and openvino_int8_exact(HALF_RANGE):
        return HALF_RANGE.high
    raise UserError(
        f"this CPU's INT8 kernels are not exact with weight codes up to {codes}",
        "expected exact INT8",
        "use the float engines",
    )


def runs_in_bfloat16(part: PartInfo, target: OpenVINOTarget) -> bool:
    """May what is not INT8 of a part run in bfloat16, where the CPU has it?"""
    return target.bfloat16 and part.float_precision == "bfloat16"


def compile_static(
    path: Path,
    shapes: Shapes,
    threads: int = 0,
    bfloat16: bool = False,
    limit: int | None = None,
    properties: Mapping[str, Any] = MappingProxyType({}),
    streams: int = 1,
) -> Any:
    """An ov.CompiledModel of the graph in `path` for one shape of each input, by its name.

    bfloat16: what is not INT8 may run in it, where the CPU has it. limit: weight codes are brought within ±limit
    first. properties: more of OpenVINO's. streams: runs at once, each with its share of the threads.
    """
    if limit is not None:
        with within_limit(path, limit) as copy:
            return compile_static(copy, shapes, threads, bfloat16, properties=properties, streams=streams)
    core = the_core()
    try:
        model = read_fixed(path, shapes)
        options = {**_options(threads, bfloat16, streams), **properties}
        try:
            return core.compile_model(model, "CPU", options)
        except RuntimeError:
            if options["INFERENCE_PRECISION_HINT"] == "f32":
                raise
        # a CPU that has bfloat16, held to an older instruction set
        return core.compile_model(model, "CPU", {**options, **_options(threads, False, streams)})
    except (RuntimeError, ValueError) as error:
        raise failure(f"{path}: OpenVINO cannot load it", error) from error


def compile_saved(path: Path, threads: int, bfloat16: bool) -> Any:
    """An ov.CompiledModel of a model in OpenVINO's own format, as `compile_static` would make it."""
    try:
        return the_core().compile_model(str(path), "CPU", _options(threads, bfloat16))
    except RuntimeError as error:
        raise failure(f"{path}: OpenVINO cannot load it", error) from error


def import_compiled(content: np.ndarray, threads: int, bfloat16: bool, streams: int = 1) -> Any | None:
    """The ov.CompiledModel that `export_model` gave as `content`, None where OpenVINO does not take it.

    `content` is not copied and has to live as long as the model; it is writable, if only in memory.
    """
    for kind in (bfloat16, False):  # as in `compile_static`
        with suppress(RuntimeError):
            options = _options(threads, kind, streams)
            return the_core().import_model(ov.Tensor(content, shared_memory=True), "CPU", options)
    return None


def _options(threads: int, bfloat16: bool, streams: int = 1) -> dict[str, Any]:
    options: dict[str, Any] = dict(COMPILE_OPTIONS)
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
        # pinned, two processes of a few threads each would share the first cores
        options["ENABLE_CPU_PINNING"] = threads >= (os.cpu_count() or 1)
    if bfloat16 and has_bfloat16():
        options["INFERENCE_PRECISION_HINT"] = "bf16"
    if streams > 1:
        # pinned, two streams did a folder slower than one (docs/speed.md), why is not known
        options.update(NUM_STREAMS=streams, ENABLE_CPU_PINNING=False)
    return options


def failure(what: str, error: Exception) -> UserError:
    """OpenVINO's exception in one line: its last one, the others say where; out of memory is called that."""
    reason = str(error).strip().splitlines()[-1]
    if "alloc" in reason:
        return UserError(f"{what}: out of memory ({reason})", "", "a smaller --tile needs less")
    return UserError(f"{what} ({reason})")


def read_fixed(path: Path, shapes: Shapes) -> Any:
    """The ov.Model of the graph in `path`, its inputs' shapes set before it is converted; weights stay mapped."""
    reader = FrontEndManager().load_by_framework("onnx")
    model = reader.load(str(path))
    for place in model.get_inputs():
        (name,) = place.get_names()
        taken, shape = model.get_partial_shape(place), ov.PartialShape(list(shapes[name]))
        if not taken.compatible(shape):
            raise UserError(f"{path.name}: {name} of shape {list(shapes[name])}", f"expected {taken}")
        model.set_partial_shape(place, shape)
    return reader.convert(model)


def peak_activations(compiled: Any) -> int:
    """Most bytes of tensors alive at once in a compiled OpenVINO model, in the order in which its kernels run.

    OpenVINO lays them out in one arena of nearly that size (measured: 3 to 5 % more) and keeps it.
    """
    operations = compiled.get_runtime_model().get_ordered_ops()
    sizes, ends = {}, {}
    for index, operation in enumerate(operations):
        constant = operation.get_rt_info()["layerType"].astype(str) == "Const"
        for output in operation.outputs():
            count = 0 if constant else prod(output.get_shape()) * output.get_element_type().size
            sizes[operation.get_friendly_name(), output.get_index()] = (index, count)
        for source in (entry.get_source_output() for entry in operation.inputs()):
            ends[source.get_node().get_friendly_name(), source.get_index()] = index
    change = [0] * (len(operations) + 1)
    for name, (start, size) in sizes.items():
        change[start] += size
        change[ends.get(name, start) + 1] -= size
    alive, most = 0, 0
    for step in change:
        alive += step
        most = max(most, alive)
    return most


def _exactness_graph(codes: CodeRange) -> GraphProto:
    """A 1×1 QDQ convolution of 64 channels: the largest code as every input and weight, all scales 1."""
    weight = np.full((16, 64, 1, 1), codes.high, np.int8)
    initializers = [
        numpy_helper.from_array(np.array(1.0, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(np.ones(16, np.float32), "weight_scale"),
        numpy_helper.from_array(np.zeros(16, np.int8), "weight_zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["y", "w"], ["out"]),
    ]
    return helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 16, 8, 8])],
        initializers,
    )


def compile_content(content: bytes, threads: int = 0) -> Any:
    """An ov.CompiledModel, in float32, of an ONNX graph in memory whose shapes are fixed; threads: 0 for all."""
    core = the_core()
    options = {**COMPILE_OPTIONS, "INFERENCE_NUM_THREADS": threads}
    return core.compile_model(core.read_model(content, b""), "CPU", options)


def _result(graph: GraphProto, x: np.ndarray) -> np.ndarray:
    """What OpenVINO's kernels on this CPU make of one input."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    compiled = compile_content(model.SerializeToString())
    result: np.ndarray = compiled([x])[compiled.output(0)]
    return result


@cache
def has_bfloat16() -> bool:
    """True where the CPU computes in bfloat16 (AVX512-BF16, AMX), so that it is faster.

    Where ONEDNN_MAX_CPU_ISA forbids it OpenVINO still lists it among what the CPU can, computes float32, and its
    kernels for the rest have been seen to crash: so a product that bfloat16 rounds is looked at as well.
    """
    if "BF16" not in the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    nodes = [
        helper.make_node("Cast", ["x"], ["rounded"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["rounded", "rounded"], ["product"]),
        helper.make_node("Cast", ["product"], ["out"], to=TensorProto.FLOAT),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 32]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "probe", tensors[:1], tensors[1:])
    x = np.full((32, 32), 1 + 2**-9, np.float32)  # a quarter of the way to its neighbour: bfloat16 makes it 1
    return bool(np.all(_result(graph, x) == 32))


@cache
def openvino_int8_exact(codes: CodeRange) -> bool:
    """True where OpenVINO's INT8 kernels on this CPU are exact for weight codes of this range."""
    top = float(SIGNED.high)
    result = _result(_exactness_graph(codes), np.full((1, 64, 8, 8), top, np.float32))
    return bool(np.array_equal(result, np.full_like(result, top * codes.high * 64)))
