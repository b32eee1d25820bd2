"""One part → one ONNX file: the float twin and the QDQ graph from the same code.

After torch's exporter, nodes are renamed so that the names users see are the sites' own:
a Conv or MatMul is called by its site, its Q/DQ pair by its port. TensorRT's layer list, OpenVINO's
profile and polygraphy all show these names.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.names import DEQUANTIZE, QUANTIZE, port_node, weight_names, weight_node
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.model.sites import NamedSite, named_sites
from passionsr_trt.export.onnx.alike import Traced
from passionsr_trt.export.onnx.stages import Stages
from passionsr_trt.export.quantize.quantizers import export_twin
from passionsr_trt.export.quantize.values import PartQuant
from torch import nn

OPSET, OPSET_OF_BFLOAT16 = 20, 22  # before 22 no Conv takes bfloat16; JetPack 6's TensorRT reads up to 20
EXTERNAL_DATA_BYTES = 100_000_000
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportPlan:
    """dynamic: batch, H and W of the tensors are symbols; else 1 and `size` pixels.

    precision: of what stays float, one of PRECISIONS. format: of codes, one of CODE_FORMATS. name: what the model
    is called, or empty. photos: low-resolution pictures like the user's, on which half precision is measured
    beside drawn ones; measured_on: their digest, or empty.
    """

    size: Size = (512, 512)
    dynamic: bool = True
    precision: str = "fp32"
    format: str = "int8"
    name: str = ""
    photos: tuple[Path, ...] = ()
    measured_on: str = ""


@torch.no_grad()
def export_part(
    part: Part,
    quant: PartQuant,
    multiple: int,
    plan: ExportPlan,
    path: Path,
    consume: bool = False,
    stages: Stages | None = None,
    needed: Collection[int] = (),
    traced: list[Traced] | None = None,
) -> None:
    """Write `path`. Sites with a row in `quant`, whose LET is folded, become QDQ; the others stay float in
    `plan.precision`.

    multiple: of picture sides that the chain takes. consume: the part's own weights are let go on the way, but for
    storages that are `needed`. stages: told which stage begins. traced: graphs of parts before, one of which may
    do with other constants; if none does, this one's is added. None where no other part is of its kind.
    """
    twin = export_twin(part, quant, DTYPES[plan.precision], consume)
    for known in traced or ():
        if known.fits(twin):
            if stages is not None:
                stages.enter("writing")
            save_whole(known.with_constants(part, twin), path)
            onnx.checker.check_model(str(path))
            return
    _write_program(part, twin, multiple, plan, path, stages)
    model = onnx.load(str(path), load_external_data=False)
    sites = list(named_sites(twin, part.name))
    rename_nodes(model, sites, part.name)
    if traced is not None:
        traced.append(Traced.of(part, twin, model, path))
    if consume:  # by force: the exporter's rewriter keeps its last graph
        for named in sites:
            storage = named.site.get_buffer("stored").untyped_storage()
            if storage.resizable() and storage.data_ptr() not in needed:
                storage.resize_(0)
    if plan.dynamic:
        _name_axes(model, part)
    _forget_sources(model)
    is_large = save_model(model, path)
    onnx.checker.check_model(str(path), full_check=not is_large)


def _write_program(
    part: Part, twin: nn.Module, multiple: int, plan: ExportPlan, path: Path, stages: Stages | None
) -> None:
    """What torch's exporter makes of the twin; weights lie beside the graph: never twice in memory."""
    # two of two multiples: torch takes a batch or a side of 1 for a constant
    size, batch = ((2 * multiple, 2 * multiple), 2) if plan.dynamic else (plan.size, 1)
    heard = nullcontext() if stages is None else stages.of_exporter()
    with quiet_exporter(), heard:
        program = torch.onnx.export(
            twin,
            tuple(torch.zeros(tensor.at(size, batch)) for tensor in part.inputs),
            dynamo=True,
            opset_version=OPSET_OF_BFLOAT16 if plan.precision == "bf16" else OPSET,
            input_names=[tensor.name for tensor in part.inputs],
            output_names=[part.output.name],
            dynamic_shapes=_symbols(part, multiple) if plan.dynamic else None,
            verbose=stages is not None,
        )
    assert program is not None
    if stages is not None:
        stages.enter("writing")
    program.save(str(path), external_data=True)


def _symbols(part: Part, multiple: int) -> tuple[dict[int, Any], ...]:
    """Batch, and sides in multiples of what the chain takes."""
    height, width = torch.export.Dim("h", min=1, max=1024), torch.export.Dim("w", min=1, max=1024)
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = []
    for tensor in part.inputs:
        sides: dict[int, Any] = {}
        if tensor.stride:
            step = multiple // tensor.stride
            sides = {2: step * height, 3: step * width} if step > 1 else {2: height, 3: width}
        shapes.append({0: batch, **sides})
    return tuple(shapes)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """torch's exporter prints its steps and warns about its own internals; errors still come through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def rename_nodes(model: onnx.ModelProto, sites: Iterable[NamedSite], part_name: str) -> None:
    """Call every site's Conv/MatMul by the site's name and its Q/DQ by the port's; UserError if one is lost."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    producer: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
        for name in node.output:
            producer[name] = node
    initializers = {tensor.name for tensor in model.graph.initializer}
    for named in sites:
        keys = [key for key in weight_names(part_name, named.name) if key in initializers]
        nodes = consumers.get(keys[0], []) if keys else []
        if nodes and nodes[0].op_type == DEQUANTIZE:
            nodes[0].name = weight_node(named.name)
            nodes = consumers.get(nodes[0].output[0], [])
        if len(nodes) != 1 or nodes[0].op_type not in ("Conv", "MatMul", "Gemm"):
            found = ", ".join(node.op_type for node in nodes) or "nothing"
            raise UserError(f"{named.name}: its weight feeds {found}", "expected one Conv or MatMul")
        nodes[0].name = named.name
        dequantize = producer.get(nodes[0].input[0])
        if dequantize is not None and dequantize.op_type == DEQUANTIZE:
            dequantize.name = port_node(named.port_name, DEQUANTIZE)
            producer[dequantize.input[0]].name = port_node(named.port_name, QUANTIZE)


def _name_axes(model: onnx.ModelProto, part: Part) -> None:
    """Readable names for the dynamic axes of inputs and outputs."""
    strides = {tensor.name: tensor.stride for tensor in (*part.inputs, part.output)}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        unit = f"/{strides[value.name]}" if strides[value.name] > 1 else ""
        for dim, name in zip(dims, ("batch", "channels", f"height{unit}", f"width{unit}"), strict=False):
            if not dim.dim_value:
                dim.dim_param = name


def _forget_sources(model: onnx.ModelProto) -> None:
    """Take out the exporter's notes: for every node its stack trace, with the paths of the machine it ran on."""
    for noted in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del noted.metadata_props[:]


def save_model(model: onnx.ModelProto, path: Path) -> bool:
    """Write the graph over `path`, whose weights lie in `<name>.data`; one file of both where it is not large.

    True for a large model, which stays in two.
    """
    data = path.with_name(f"{path.name}.data")
    is_large = data.is_file() and data.stat().st_size >= EXTERNAL_DATA_BYTES
    if not is_large:
        onnx.load_external_data_for_model(model, str(path.parent))
    onnx.save(model, str(path))
    if not is_large:
        data.unlink(missing_ok=True)
    return is_large


def save_whole(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph that holds its weights, as `save_model` leaves it: one file, or two where it is large."""
    is_large = sum(len(constant.raw_data) for constant in model.graph.initializer) >= EXTERNAL_DATA_BYTES
    onnx.save_model(model, str(path), save_as_external_data=is_large, location=f"{path.name}.data")


def run_reference(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of an ONNX file as it is written (engines/graph/reference.py)."""
    from passionsr_trt.engines.graph.reference import reference_session

    return reference_session(path).run(None, feed)[0]
