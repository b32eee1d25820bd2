"""Sites and ports.

A *site* is one Conv or Linear. A *port* is the activation tensor that feeds it; sites that read the same
normalised tensor (q, k and v) share one port, hence one scale and one Q/DQ pair in the exported graph.
What they compute depends on their mode (export/quantize/modes.py); without scales (left out by the spec) it is
FLOAT in every mode.
The explicit transform x·multiplier + offset is what LET leaves where no neighbour can absorb it; `pads` zero-pads
x before it, because after a shift the padding must still stand for x = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from passionsr_trt.export.quantize.formats import INT8, Codes
from passionsr_trt.export.quantize.learners import PortLearner, WeightLearner
from passionsr_trt.export.quantize.modes import Mode, Moded
from passionsr_trt.export.quantize.quantizer import fake_quantize, per_channel, weight_codes
from torch import Tensor, nn


class Port(Moded):
    """The quantized input of one or more sites. `scale` is a scalar buffer, or None while float."""

    scale: Tensor | None
    multiplier: Tensor | None
    offset: Tensor | None
    learner: PortLearner | None

    def __init__(self) -> None:
        super().__init__()
        self.pads: tuple[int, ...] = ()  # (top, left, bottom, right)
        self.joined = False  # what comes before and its Q are one kernel; an explicit transform parts it
        self.learner = None
        self.codes, self.low, self.high = INT8, INT8.low, INT8.high
        self.limits = (0.0, 0.0)  # low·Δ and high·Δ, the values that the outermost codes stand for
        for name in ("multiplier", "offset", "scale", "zero"):
            self.register_buffer(name, None)

    def set_scale(self, scale: Tensor, low: float, high: float, codes: Codes = INT8) -> None:
        self.scale = scale.detach().to(torch.float32).reshape(())
        self.zero = torch.zeros((), dtype=codes.dtype, device=scale.device)
        self.codes, self.low, self.high = codes, low, high
        self.limits = (low * float(self.scale), high * float(self.scale))

    def transform(self, x: Tensor) -> Tensor:
        """Zero padding, then x·multiplier + offset, as far as they are set."""
        x = zero_padded(x, self.pads) if self.pads else x
        if self.multiplier is not None:
            x = x * self.multiplier.to(x.dtype)
        return x if self.offset is None else x + self.offset.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transform(x)
        if self.mode is Mode.LEARN and self.learner is not None:
            return self.learner.quantize(self.learner.transform(x))
        if self.scale is None or self.mode in (Mode.FLOAT, Mode.LEARN):
            return x
        if self.mode is Mode.FAKE:
            return fake_quantize(x, self.scale.to(x.dtype), self.low, self.high, self.codes)
        if (self.low, self.high) != (self.codes.low, self.codes.high):
            # INT8 container, fewer codes: the clip is what makes them fewer.
            x = torch.clamp(x, *self.limits)
        scale = self.scale.to(x.dtype)
        codes = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, scale, self.zero), dtype=self.codes.dtype, shape=x.shape, version=19
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (codes, scale, self.zero), dtype=x.dtype, shape=x.shape, version=19
        )


class Operand(Port):
    """One factor of a product of two activations, as in attention. Quantized where the spec says `attention`."""


class Site(Moded):
    """Shared by convolutions and linears: a weight [O, ...], a float bias [O], a port.

    `weight_scale` [O] is None while the site is float; `turns`, as the weight, are added to its nearest codes;
    of the quantized site a code is worth weight_scale·`output_gain` [O]; `output_bias` [O] is added to its bias.
    """

    weight_scale: Tensor | None
    turns: Tensor | None
    output_gain: Tensor | None
    output_bias: Tensor | None
    weight: nn.Parameter
    bias: nn.Parameter | None
    kind = ""
    weight_buffers = ("stored",)
    macs_saved = 1.0  # MACs as the model's authors wrote it / as executed

    def __init__(self, weight: Tensor, bias: Tensor | None, port: Port | None = None) -> None:
        super().__init__()
        self.assign(weight, bias)
        self.port = port if port is not None else Port()
        self.codes, self.code_limit = INT8, INT8.high
        self.learner: WeightLearner | None = None  # LEARN mode only
        self.out_dtype: torch.dtype | None = None  # set where a float32 island hands over to half
        for name in ("weight_scale", "turns", "output_gain", "output_bias", "stored", "weight_zeros"):
            self.register_buffer(name, None)

    def assign(self, weight: Tensor, bias: Tensor | None) -> None:
        """Replace weight and bias: what a fold ends with."""
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def scale_output(self, gain: float, offset: float = 0.0) -> None:
        """Fold y → gain·y + offset into weight and bias."""
        bias = None if self.bias is None else self.bias.data * gain + offset
        if bias is None and offset:
            bias = self.weight.data.new_full(self.weight.shape[:1], offset)
        self.assign(self.weight.data * gain, bias)

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1]

    def per_row(self, values: Tensor) -> Tensor:
        """[O] of the layer as its authors wrote it → one value for every row of the weight."""
        return values

    def set_weight_scale(
        self, scale: Tensor, limit: float, turns: Tensor | None = None, codes: Codes = INT8
    ) -> None:
        self.weight_scale = scale.detach().to(torch.float32)
        self.codes, self.code_limit, self.turns = codes, limit, turns

    def effective_weight(self, transpose: bool = False) -> Tensor:
        """The weight the operation multiplies with, in the current mode; [K, N] when `transpose`."""
        weight: Tensor = self.weight
        if self.mode is Mode.LEARN and self.learner is not None and self.port.learner is not None:
            if self.learner.held is not None:
                return self.learner.held.weight()
            return self.learner(self.port.learner.weight(weight))
        if self.weight_scale is None or self.mode in (Mode.FLOAT, Mode.LEARN):
            return weight.t() if transpose else weight
        if self.mode is Mode.FAKE:
            codes = weight_codes(weight, self.weight_scale, self.code_limit, self.turns, self.codes)
            weight = codes.to(weight.dtype) * per_channel(self._worth(), weight.dim()).to(weight.dtype)
            return weight.t() if transpose else weight
        assert self.stored is not None
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.stored, self.weight_scale.to(weight.dtype), self.weight_zeros),
            attrs={"axis": 1 if transpose else 0},
            dtype=weight.dtype,
            shape=self.stored.shape,
            version=19,
        )

    def effective_bias(self) -> Tensor | None:
        """B, with the output bias where the site is quantized; B + W·δ while LET is being learned."""
        if self.mode is Mode.LEARN and self.port.learner is not None and self.learner is not None:
            if self.learner.held is not None:
                return self.learner.held.bias
            bias = self.port.learner.bias(self.weight, self.bias)
            return bias if bias is None or self.bias is None else bias + self.learner.output_bias()
        return self.bias if self.mode in (Mode.FLOAT, Mode.LEARN) else self.quantized_bias()

    def quantized_bias(self) -> Tensor | None:
        """B with the output bias."""
        if self.output_bias is None:
            return self.bias
        own = self.output_bias.to(self.weight.dtype)
        return own if self.bias is None else self.bias + own

    def _worth(self) -> Tensor:
        """[O]: what one code of a row stands for."""
        assert self.weight_scale is not None
        return self.weight_scale if self.output_gain is None else self.weight_scale * self.output_gain

    def prepare_export(self) -> None:
        """Compute the initializers that QDQ mode emits: codes, or the float weight of a float site; the bias."""
        stored = self.weight.data
        self.assign(stored, self.quantized_bias())
        self.output_bias = None
        if self.weight_scale is not None:
            stored = weight_codes(stored.float(), self.weight_scale, self.code_limit, self.turns, self.codes)
            self.weight_scale, self.output_gain = self._worth(), None
            self.weight_zeros = torch.zeros_like(self.weight_scale, dtype=self.codes.dtype)
        self.stored = stored.t().contiguous() if self.kind == "linear" else stored

    def forward(self, x: Tensor, ported: bool = False) -> Tensor:
        """`ported`: x already went through the port, because other sites share it."""
        out = self.apply_weight(x if ported else self.port(x.to(self.weight.dtype)))
        return out if self.out_dtype is None else out.to(self.out_dtype)

    def apply_weight(self, x: Tensor) -> Tensor:
        """The operation itself, on an input that already went through the port."""
        raise NotImplementedError


class SiteConv(Site):
    """Conv2d. `pads` is (top, left, bottom, right), ONNX order; asymmetric pads are emitted on the Conv."""

    kind = "conv"

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: int = 1,
        pads: Sequence[int] | int = 0,
        port: Port | None = None,
    ) -> None:
        super().__init__(weight, bias, port)
        self.stride = stride
        self.pads = (pads,) * 4 if isinstance(pads, int) else tuple(pads)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, pads: Sequence[int] | None = None, port: Port | None = None) -> SiteConv:
        assert conv.groups == 1 and conv.dilation == (1, 1) and isinstance(conv.padding, tuple)
        height, width = conv.padding
        return cls(conv.weight.data, _data(conv.bias), conv.stride[0], pads or (height, width) * 2, port)

    def apply_weight(self, x: Tensor) -> Tensor:
        top, left, bottom, right = self.pads
        weight = self.effective_weight()
        if (top, left) == (bottom, right):
            return F.conv2d(x, weight, self.effective_bias(), self.stride, (top, left))
        if self.mode is not Mode.QDQ:
            return F.conv2d(zero_padded(x, self.pads), weight, self.effective_bias(), self.stride)
        kernel = weight.shape[2:]
        height = (x.shape[2] + top + bottom - kernel[0]) // self.stride + 1
        width = (x.shape[3] + left + right - kernel[1]) // self.stride + 1
        return torch.onnx.ops.symbolic(
            "Conv",
            (x, weight) if self.bias is None else (x, weight, self.bias),
            attrs={"pads": list(self.pads), "strides": [self.stride] * 2, "kernel_shape": list(kernel)},
            dtype=x.dtype,
            shape=(x.shape[0], weight.shape[0], height, width),
        )


class SiteLinear(Site):
    """Linear on the last dimension. Emitted as MatMul with a [K, N] weight, DQ axis 1 (no Transpose)."""

    kind = "linear"

    @classmethod
    def from_linear(cls, linear: nn.Linear, port: Port | None = None) -> SiteLinear:
        return cls(linear.weight.data, _data(linear.bias), port)

    def apply_weight(self, x: Tensor) -> Tensor:
        if self.mode is not Mode.QDQ:
            return F.linear(x, self.effective_weight(), self.effective_bias())
        weight = self.stored if self.weight_scale is None else self.effective_weight(transpose=True)
        out = torch.matmul(x, weight)
        return out if self.bias is None else out + self.bias


def zero_padded(x: Tensor, pads: Sequence[int]) -> Tensor:
    """x [B, C, H, W] with zeros around it; pads: (top, left, bottom, right), ONNX order."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom))


def _data(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.data


@dataclass(frozen=True)
class NamedSite:
    """One site of a part: its full name (`unet.mid_block.resnets.0.conv1`) and its port's name."""

    name: str
    port_name: str
    site: Site


def named_sites(part: nn.Module, part_name: str) -> Iterator[NamedSite]:
    """Every site of a part in module order. A port bears the name of the first site that it feeds."""
    ports: dict[Port, str] = {}
    for path, module in part.named_modules():
        if isinstance(module, Site):
            name = f"{part_name}.{path}"
            yield NamedSite(name, ports.setdefault(module.port, name), module)


def named_operands(part: nn.Module, part_name: str) -> dict[str, Operand]:
    """Every operand of a part by its full name, in module order."""
    return {f"{part_name}.{path}": found for path, found in part.named_modules() if isinstance(found, Operand)}


def group_ports(sites: Iterable[NamedSite]) -> dict[str, list[NamedSite]]:
    """Port name → the sites that it feeds, in module order."""
    groups: dict[str, list[NamedSite]] = {}
    for named in sites:
        groups.setdefault(named.port_name, []).append(named)
    return groups
