"""Exported graphs: Q/DQ where TensorRT wants them, and codes that agree with PyTorch's."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.export.model.sites import Port, SiteConv, SiteLinear, named_sites
from passionsr_trt.export.quantize.chosen import quantized_sites
from passionsr_trt.export.quantize.grids import Grid, quantize
from passionsr_trt.export.quantize.quantizers import export_twin
from passionsr_trt.export.quantize.values import PartQuant, PortQuant, SiteQuant
from torch import nn

from tests.conftest import Built
from tests.helpers import faked, lone_part


@pytest.fixture(scope="module", params=["vae_encoder", "unet", "vae_decoder"])
def graph(request: pytest.FixtureRequest, small: Built) -> tuple[OnnxBundle, onnx.ModelProto, str]:
    bundle = OnnxBundle.load(small.onnx_int8)
    return bundle, onnx.load(bundle.open(bundle.part(request.param))), request.param


def test_every_quantized_site_has_int8_weights_whose_dequantize_feeds_it_directly(
    graph: tuple[OnnxBundle, onnx.ModelProto, str],
) -> None:
    bundle, model, part = graph
    nodes = {node.name: node for node in model.graph.node}
    producer = {name: node for node in model.graph.node for name in node.output}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for site in bundle.part(part).sites:
        node = nodes[site.name]
        sources = [producer.get(name) for name in node.input[:2]]
        if not site.quantized:
            assert all(source is None or source.op_type != "DequantizeLinear" for source in sources)
            continue
        activation, weight = sources
        assert activation is not None and activation.op_type == "DequantizeLinear"
        assert producer[activation.input[0]].op_type == "QuantizeLinear"
        assert weight is not None and weight.op_type == "DequantizeLinear"
        codes = initializers[weight.input[0]]
        assert codes.data_type == onnx.TensorProto.INT8
        axis = next(attribute.i for attribute in weight.attribute if attribute.name == "axis")
        assert axis == (0 if site.kind == "conv" else 1)
        assert np.abs(numpy_helper.to_array(codes).astype(int)).max() <= 127


def test_zero_points_are_constant_zeros_and_scales_positive(
    graph: tuple[OnnxBundle, onnx.ModelProto, str],
) -> None:
    _bundle, model, _part = graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantizers
    for node in quantizers:
        assert np.all(values[node.input[1]] > 0)
        assert not values[node.input[2]].any() and values[node.input[2]].dtype == np.int8


def test_q_k_and_v_share_one_quantizer(small: Built) -> None:
    bundle = OnnxBundle.load(small.onnx_int8)
    model = onnx.load(bundle.open(bundle.part("unet")))
    nodes = {node.name: node for node in model.graph.node}
    prefix = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    inputs = {nodes[f"{prefix}.{name}"].input[0] for name in ("to_q", "to_k", "to_v")}
    assert len(inputs) == 1


def test_nothing_but_weighted_operations_is_quantized(graph: tuple[OnnxBundle, onnx.ModelProto, str]) -> None:
    _bundle, model, _part = graph
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in model.graph.node if set(node.input) & dequantized}
    assert readers <= {"Conv", "MatMul"}


def test_the_float_twin_has_no_quantizer(small: Built) -> None:
    bundle = OnnxBundle.load(small.onnx_fp32)
    for part in bundle.parts:
        operators = {node.op_type for node in onnx.load(bundle.open(part)).graph.node}
        assert not operators & {"QuantizeLinear", "DequantizeLinear", "Transpose"} - {"Transpose"}


def test_asymmetric_padding_is_on_the_convolution(small: Built) -> None:
    bundle = OnnxBundle.load(small.onnx_int8)
    model = onnx.load(bundle.open(bundle.part("vae_encoder")))
    assert "Pad" not in {node.op_type for node in model.graph.node}
    node = next(node for node in model.graph.node if node.name.endswith("downsamplers.0.conv"))
    assert next(list(a.ints) for a in node.attribute if a.name == "pads") == [0, 0, 1, 1]


class OneSite(nn.Module):
    def __init__(self, site: nn.Module) -> None:
        super().__init__()
        self.site = site

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.site(x)


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_codes_and_results_agree_with_pytorch_code_for_code(kind: str, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(bits)
    site: SiteConv | SiteLinear
    if kind == "conv":
        site, x = SiteConv(torch.randn(8, 16, 3, 3), torch.randn(8), 1, 1), torch.randn(1, 16, 6, 6) * 2
    else:
        site, x = SiteLinear(torch.randn(8, 16), torch.randn(8), None), torch.randn(1, 5, 16) * 2
    high = 2 ** (bits - 1) - 1
    part = lone_part("part", OneSite(site).eval(), 16)
    row = SiteQuant(site.weight.data.flatten(1).abs().amax(1) / high)
    grid = Grid.of(QuantSpec(bits_weights=bits, bits_activations=bits))
    quant = PartQuant({"part.site": PortQuant(torch.tensor(2.0 / high))}, {"part.site": row}, grid)
    with faked(part, quant):
        expected, codes = site(x), quantize(x, torch.tensor(2.0 / high), -high - 1, high)
    program = torch.onnx.export(export_twin(part, quant), (x,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    model = program.model_proto
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    model.graph.output.append(onnx.ValueInfoProto(name=quantizer.output[0]))
    session = reference_session(model)
    result, found_codes = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.array_equal(found_codes.astype(np.float32), codes.numpy())
    np.testing.assert_allclose(result, expected.detach().numpy(), rtol=1e-5, atol=1e-4)


def test_a_port_without_a_quantizer_changes_nothing() -> None:
    port, x = Port(), torch.randn(3)
    assert port(x) is x


class Table(nn.Module):
    """Two buffers: one that it calls a weight, and one that is not, whatever its name."""

    weight_buffers = ("table",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(2))
        self.register_buffer("value", torch.ones(2))


def test_half_precision_takes_the_buffers_that_a_module_calls_weights() -> None:
    conv, linear = SiteConv(torch.ones(1, 1, 1, 1), torch.ones(1)), SiteLinear(torch.ones(1, 1), None)
    last = SiteConv(torch.ones(1, 1, 1, 1), None)
    module = nn.Sequential(SiteConv(torch.ones(1, 1, 1, 1), None), Table(), conv, linear, last)
    ports = {f"part.{index}": PortQuant(torch.tensor(1.0)) for index in (2, 3)}
    quant = PartQuant(ports, {"part.3": SiteQuant(torch.ones(1))})
    twin = export_twin(lone_part("part", module, 1), quant, precision=torch.float16)
    halved = {name for name, tensor in twin.state_dict().items() if tensor.dtype == torch.float16}
    assert halved == {"1.table", "2.weight", "2.bias", "2.stored", "3.weight"}, "codes and scales stay"


@pytest.mark.parametrize(("ends", "expected"), [((), ("a", "c")), (("part.b", "part.a"), ("b", "a"))])
def test_the_first_and_the_last_site_are_the_same_to_a_spec_and_to_half_precision(
    ends: tuple[str, ...], expected: tuple[str, str]
) -> None:
    module = nn.Sequential(OrderedDict((name, SiteConv(torch.ones(3, 3, 1, 1), None)) for name in "abc"))
    part = replace(lone_part("part", module, 3), ends=ends)
    first, last = (f"part.{name}" for name in expected)
    assert part.first_and_last == (first, last)
    sites = {named.name: named.site for named in part.sites()}
    assert set(sites) - {named.name for named in quantized_sites(part, QuantSpec(min_channels=0))} == {first, last}
    twin = named_sites(export_twin(part, PartQuant(), precision=torch.float16), "part")
    stored = {named.name: (named.site.stored.dtype, named.site.out_dtype) for named in twin}
    assert {name for name, (kind, _out) in stored.items() if kind == torch.float32} == {first, last}
    assert [name for name, (_kind, out) in stored.items() if out is not None] == [first]
