"""Rewritings check themselves, and stand in one order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.backends import OpenVINOTarget
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.graph import rewriting as graphs
from passionsr_trt.engines.graph.rewriting import Rewriting, constant, make, nodes_of, save
from passionsr_trt.engines.openvino.passes import sequence
from passionsr_trt.engines.openvino.revision import REVISION

from tests.conftest import COMMITTED

TARGET = OpenVINOTarget(False, REVISION, None, convolutions=True, phases=True, blocks=True)


def two_steps() -> ir.Model:
    """x → Relu → Add of a constant → y."""
    nodes = [helper.make_node("Relu", ["x"], ["a"], "relu"), helper.make_node("Add", ["a", "c"], ["y"], "add")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [100]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.ones(100, np.float32), "c")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


class Squares(Rewriting[ir.Node]):
    """Relu becomes a Mul; `fault`: what is done wrongly."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def find(self, graph: ir.Graph) -> Iterator[ir.Node]:
        return nodes_of(graph, "Relu")

    def rewrite(self, graph: ir.Graph, match: ir.Node) -> None:
        new = make(
            "Relu" if self.fault == "left" else "Mul", [*match.inputs] * (1 if self.fault == "left" else 2), "made"
        )
        if self.fault == "order":
            graph.append(new)
        else:
            graph.insert_before(match, new)
        graphs.replace(match.outputs[0], new.outputs[0])
        if self.fault == "ends":
            graph.outputs[0].name = "z"


def test_a_value_takes_the_name_of_the_one_it_replaces_and_what_nobody_reads_goes() -> None:
    model = two_steps()
    constant(model.graph, "unread", np.zeros(3))
    assert Squares()(model).modified and not Squares()(model).modified
    assert [(node.op_type, node.outputs[0].name) for node in model.graph] == [("Mul", "a"), ("Add", "y")]
    assert set(model.graph.initializers) == {"c"}


@pytest.mark.parametrize(
    ("fault", "message"), [("left", "left"), ("order", "stands before"), ("ends", "other inputs")]
)
def test_a_rewriting_that_is_wrong_says_so(fault: str, message: str) -> None:
    with pytest.raises(ir.passes.PostconditionError, match=message):
        Squares(fault)(two_steps())


@pytest.mark.parametrize("large", [1, 1000])
def test_weights_lie_beside_a_large_graph_and_in_a_small_one(tmp_path: Path, large: int) -> None:
    save(two_steps(), tmp_path / "g.onnx", large)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == ({"g.onnx", "g.onnx.data"} if large == 1 else {"g.onnx"})
    assert onnx.load(str(tmp_path / "g.onnx")).graph.initializer[0].raw_data == np.ones(100, np.float32).tobytes()


def names(target: OpenVINOTarget, multiple: int = 16, float_precision: str = "float32") -> list[str]:
    part = OnnxBundle.load(COMMITTED / "onnx_int8").parts[-1]
    changed = replace(part, multiple=multiple, float_precision=float_precision)
    return [type(rewriting).__name__ for rewriting in sequence(changed, target)]


def test_the_order_is_one_and_the_target_says_what_is_in_it() -> None:
    first = ["ShiftsAsUnsignedCodes", "SignedAsUnsignedCodes"]
    chosen = ["LinearsAsConvolutions", "PhasesApart", "PixelsInBlocks"]
    float32 = ["NormsByChannel", "CodesBeforeEnlargements"]
    assert names(TARGET) == [*first, *chosen, *float32]
    assert names(TARGET, multiple=1) == [*first, *chosen[:2], *float32], "sides may be odd"
    assert names(replace(TARGET, convolutions=False, phases=False, blocks=False)) == [*first, *float32]
    assert names(replace(TARGET, bfloat16=True)) == [*first, *chosen, *float32, "AttentionInBfloat16"]
    assert names(replace(TARGET, bfloat16=True), float_precision="bfloat16") == [*first, *chosen]
