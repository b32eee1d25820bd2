"""No structure that OpenVINO computes wrongly is left in what is built (benchmarks/wrong_kernels.py)."""

from __future__ import annotations

import importlib.util
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import onnx
import pytest

pytest.importorskip("openvino")
pytestmark = pytest.mark.kernels
ROOT = Path(__file__).resolve().parents[2]


def sweep() -> ModuleType:
    """benchmarks/wrong_kernels.py."""
    spec = importlib.util.spec_from_file_location("wrong_kernels", ROOT / "benchmarks" / "wrong_kernels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


SWEEP = sweep()


@pytest.mark.parametrize("structure", SWEEP.STRUCTURES)
def test_no_structure_is_computed_wrongly_as_it_is_built(structure: str) -> None:
    cases = [case for case in SWEEP.cases(structure) if case[0] != "convolution" or structure == "Concat"]
    if "Concat" not in structure:  # the others are right as they are
        cases = [case for case in cases if case[1] in ("1×1", "3×3", SWEEP.LINEAR)]
    ways = (False, True) if "Tokens" in structure else (False,)
    for (feed, site), convolutions in product(cases, ways):
        built = SWEEP.as_built(SWEEP.graph(structure, feed, site), convolutions)
        assert SWEEP.error(built) < SWEEP.WRONG, (feed, site, convolutions)


def test_the_sweep_knows_a_wrong_kernel_when_it_sees_one() -> None:
    model = SWEEP.graph("nothing", "picture", "3×3")
    expected = SWEEP.error(model)
    assert expected < SWEEP.WRONG
    damaged = onnx.ModelProto()
    damaged.CopyFrom(model)
    conv = next(node for node in damaged.graph.node if node.op_type == "Conv")
    next(entry for entry in conv.attribute if entry.name == "pads").ints[:] = [0, 0, 2, 2]
    kept = SWEEP.reference_session
    try:
        SWEEP.reference_session = lambda _model, threads: kept(model, threads=threads)
        assert SWEEP.error(damaged) > SWEEP.WRONG
    finally:
        SWEEP.reference_session = kept
