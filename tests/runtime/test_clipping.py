"""What clips is counted as it is defined, on graphs with known values; alike on a bundle and on its engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from passionsr_trt.engines.bundle.backends import TENSORRT
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import PartInfo, TensorInfo
from passionsr_trt.engines.graph.names import QUANTIZE, port_node
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.pictures.drawn_set import drawn_set
from passionsr_trt.runtime.apps.clipping import clipping, clipping_line, counting_graph
from passionsr_trt.runtime.apps.html_report import clipping_ports
from passionsr_trt.runtime.backends.loading import load_engines

from tests.conftest import COMMITTED, Built

PART = PartInfo("part", "part.onnx", (TensorInfo("image", 3, 1),), TensorInfo("out", 3, 1), 1)
STEP = 0.25  # times a power of two all values are exact, in half precision too
FLOAT, HALF, INT8, UINT8, FP8 = (
    getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT8", "UINT8", "FLOAT8E4M3FN")
)
EIGHT, SIX = QuantSpec(), QuantSpec(bits_activations=6)
Nodes = list[tuple[str, list[str], dict[str, Any]]]
CLIP: Nodes = [("Clip", ["least", "most"], {})]


def written(path: Path, nodes: Nodes, zero: int, kind: int, limits: tuple[float, float], precision: int) -> Path:
    """image [1, 1, 1, N] → the nodes, each on what the one before gives → the Q of the port part.a."""
    scalars = [("a.port.scale", precision, STEP), ("zero", kind, zero)]
    scalars += [(name, precision, limit) for name, limit in zip(("least", "most"), limits, strict=True)]
    constants = [helper.make_tensor(name, dtype, [], [value]) for name, dtype, value in scalars]
    constants.append(helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1]))
    made, x = [], "image"
    for index, (name, more, attributes) in enumerate(nodes):
        made.append(helper.make_node(name, [x, *more], [f"x{index}"], **attributes))
        x = f"x{index}"
    made.append(helper.make_node(QUANTIZE, [x, "a.port.scale", "zero"], ["q"], port_node("part.a", QUANTIZE)))
    made.append(helper.make_node("DequantizeLinear", ["q", "a.port.scale", "zero"], ["out"]))
    image = helper.make_tensor_value_info("image", FLOAT, [1, 1, 1, "width"])
    out = helper.make_tensor_value_info("out", precision, None)
    graph = helper.make_graph(made, "part", [image], [out], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


WIDE = [0, 126, 127, 127.4, 127.6, 300, -128, -128.4, -128.6, -4000]  # in steps: 2 above and 2 below int8's codes
NARROW = [0, 30, 31, 31.4, 31.6, 32, 50, -32, -32.4, -32.6]  # 3 above and 1 below those of 6 bits
OF_FP8 = [0, 447, 448, 463, 465, 1000, -448, -463, -465, 3]  # 2 above and 1 below: 463 rounds to 448
SIX_BITS = (-32 * STEP, 31 * STEP)
ROUNDED = (-32.02 * STEP, 30.98 * STEP)  # half precision of another step would


@pytest.mark.parametrize(
    ("values", "spec", "nodes", "zero", "kind", "limits", "precision", "share"),
    [
        pytest.param(WIDE, EIGHT, [], 0, INT8, (0, 0), FLOAT, 0.4, id="int8"),
        pytest.param(WIDE, EIGHT, [], 128, UINT8, (0, 0), FLOAT, 0.4, id="unsigned codes of the same values"),
        pytest.param(WIDE, EIGHT, [], 1, UINT8, (0, 0), FLOAT, 0.4 - 0.1 + 0.2, id="a shift of 127 codes"),
        pytest.param(WIDE, EIGHT, CLIP, 0, INT8, (0, 200 * STEP), FLOAT, 0.2, id="a clip of the network's own"),
        pytest.param(OF_FP8, EIGHT, [], 0, FP8, (0, 0), FLOAT, 0.3, id="fp8"),
        pytest.param(NARROW, SIX, CLIP, 0, INT8, SIX_BITS, FLOAT, 0.4, id="6 bits"),
        pytest.param(NARROW, SIX, CLIP, 128, UINT8, SIX_BITS, FLOAT, 0.4, id="6 bits, unsigned"),
        pytest.param(NARROW, SIX, CLIP, 0, INT8, (0, SIX_BITS[1]), FLOAT, 0.3, id="6 bits, a ReLU in the clip"),
        pytest.param(
            NARROW,
            SIX,
            [*CLIP, ("Reshape", ["column"], {}), ("Transpose", [], {"perm": [1, 0]})],
            0, INT8, SIX_BITS, FLOAT, 0.4,
            id="6 bits, laid out anew",
        ),
        pytest.param(NARROW, SIX, [("Cast", [], {"to": HALF}), *CLIP], 0, INT8, ROUNDED, HALF, 0.4, id="half"),
        pytest.param(
            WIDE,  # bfloat16 would make 127.5 of 127.6
            EIGHT,
            [("Cast", [], {"to": TensorProto.BFLOAT16}), ("Cast", [], {"to": FLOAT})],
            0, INT8, (0, 0), FLOAT, 0.4,
            id="what an engine computes in bfloat16",
        ),
    ],
)  # fmt: skip
def test_values_count_that_lie_further_out_than_what_rounds_to_the_outermost_code(
    values: list[float],
    spec: QuantSpec,
    nodes: Nodes,
    zero: int,
    kind: int,
    limits: tuple[float, float],
    precision: int,
    share: float,
    tmp_path: Path,
) -> None:
    path = written(tmp_path / PART.file, nodes, zero, kind, limits, precision)
    graph, outputs = counting_graph(path, PART, spec)
    assert list(outputs.values()) == ["part.a"]
    image = np.array(values, np.float32).reshape(1, 1, 1, -1) * STEP
    assert reference_session(graph).run(list(outputs), {"image": image})[0] == pytest.approx(share, abs=1e-6)


def test_a_bundle_and_its_engines_clip_alike_at_every_port(small: Built) -> None:
    pictures = [picture for name, picture in drawn_set(32).items() if name in ("text", "noise")]
    assert len(pictures) == 2
    bundle, engines = OnnxBundle.load(small.onnx_int8), EngineBundle.load(small.engines_int8)
    chains = load_engines(small.onnx_int8, provider="cpu"), load_engines(small.engines_int8)
    of_bundle, of_engines = (
        clipping(each, chain, {"drawn": pictures, "images": []})["drawn"]
        for each, chain in zip((bundle, engines), chains, strict=True)
    )
    ports = {site.port for part in bundle.parts for site in part.sites if site.quantized}
    assert of_bundle.keys() == of_engines.keys() == ports
    assert max(of_bundle.values()) > 1e-3
    for port, share in of_bundle.items():
        assert of_engines[port] == pytest.approx(share, rel=0.3, abs=2e-3), port  # a bundle's padding counts too


def test_of_float_bundles_and_of_engines_that_are_no_graphs_nothing_is_said(small: Built) -> None:
    chain, kinds = load_engines(COMMITTED / "onnx_fp32", provider="cpu"), {"images": drawn_set(32).values()}
    assert clipping(OnnxBundle.load(COMMITTED / "onnx_fp32"), chain, kinds) == {}
    assert clipping(replace(EngineBundle.load(small.engines_int8), backend=TENSORRT), chain, kinds) == {}


def test_the_line_and_the_table_name_the_ports_that_clip_most() -> None:
    images, drawn = {"a": 0.0, "b": 0.002, "c": 0.0005}, {"a": 0.0, "b": 0.001, "c": 0.032}
    assert clipping_line(drawn) == "1 of 3 ports clip more than 0.1% of their values; most of all c: 3.2%"
    assert clipping_line({"a": 0.001}) == "0 of 1 ports clip more than 0.1% of their values"
    rows = clipping_ports({"images": images, "drawn": drawn})
    assert rows == [("c", [0.0005, 0.032]), ("b", [0.002, 0.001])]
    assert clipping_ports({}) == []
