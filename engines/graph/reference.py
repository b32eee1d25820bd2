"""The one exact executor: what every graph's result is judged by.

ONNX Runtime fuses Q/DQ into INT8 kernels of its own, which saturate on x86 CPUs without VNNI and were wrong on
half precision: a reference fuses nothing. With that fusion off it would fold every weight's DequantizeLinear into
a float copy when it loads, four times the file: such graphs are loaded without constant folding, and weights
become float one after another as they are used. In front of FP8 codes ONNX Runtime 1.31.1 leaves out a ReLU, as if
their zero point were the least of unsigned codes: a reference does not. Half precision and bfloat16 are computed
in float32 and rounded (half_precision.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.half_precision import computes_in_half, in_float32

EXACT = {"session.disable_quant_qdq": "1"}
WRONG = "ReluQuantRewrite"
CPU = ("CPUExecutionProvider",)


def reference_session(
    graph: Path | onnx.ModelProto,
    threads: int = 0,
    providers: Sequence[str] = CPU,
    node_by_node: bool = False,
    folder: Path | None = None,
) -> Any:
    """An onnxruntime.InferenceSession that computes a graph as it is written; threads: 0 for all.

    node_by_node: no other layout either, so that equal nodes give equal bits in every graph; slower.
    folder: where weights outside a graph in memory lie.
    UserError where ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    if node_by_node:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in EXACT.items():
        options.add_session_config_entry(key, value)
    model = onnx.load(str(graph), load_external_data=False) if isinstance(graph, Path) else graph
    what = graph if isinstance(graph, Path) else "graph"
    if tuple(providers) == CPU:
        try:
            if computes_in_half(model):
                model = in_float32(model)
                folder = graph.parent if isinstance(graph, Path) else folder
                graph = model
        except Exception as error:  # what onnx raises for a graph that is none
            raise UserError(f"{what}: not a graph ({str(error).splitlines()[0]})") from error
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    left_out = [WRONG]
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        left_out.append("ConstantFolding")
        options.add_session_config_entry("session.disable_prepacking", "1")  # it keeps every weight twice
        options.enable_mem_pattern = False  # it plans for all tensors at once
    source = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    try:
        return onnxruntime.InferenceSession(
            source, options, providers=list(providers), disabled_optimizers=left_out
        )
    except Exception as error:  # its exception types are private and many
        raise UserError(f"{what}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error
