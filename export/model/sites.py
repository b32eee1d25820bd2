"""Sites and ports.

A *site* is one Conv or Linear. A *port* is the activation tensor that feeds it; sites that read the same
normalised tensor (q, k and v) share one port, hence one scale and one Q/DQ pair in the exported graph.
Either computes in float, or with the quantizer that is attached to it (hooks.py, export/quantize/quantizers.py).
A port's own transform x·multiplier + offset is what LET leaves where no neighbour can absorb it; `pads` zero-pads
x before it, because after a shift the padding must still be that of x = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Port(nn.Module):
    """The tensor that one or more sites read. fused: the operation before it and its quantizer are one kernel,
    which a transform of its own parts in two. quantizer(x): Q(x) of the transformed x."""

    multiplier: Tensor | None
    offset: Tensor | None
    quantizer: Any

    def __init__(self) -> None:
        super().__init__()
        self.pads: tuple[int, ...] = ()  # (top, left, bottom, right)
        self.fused = False
        self.quantizer = None
        for name in ("multiplier", "offset"):
            self.register_buffer(name, None)

    def forward(self, x: Tensor) -> Tensor:
        """Zero padding, x·multiplier + offset, the quantizer; as far as there are any."""
        x = zero_padded(x, self.pads) if self.pads else x
        if self.multiplier is not None:
            x = x * self.multiplier.to(x.dtype)
        x = x if self.offset is None else x + self.offset.to(x.dtype)
        return x if self.quantizer is None else self.quantizer(x)


class Operand(Port):
    """One factor of a product of two activations, as in attention. Quantized where the spec says `attention`."""


@dataclass(frozen=True)
class Scales:
    """Δ of a port, and of each row [O] of a weight, with which codes are exact."""

    port: Tensor
    rows: Tensor


class Site(nn.Module):
    """Shared by convolutions and linears: a weight [O, ...], a float bias [O], a port, an operation.

    quantizer(site): the weight and the bias that the operation takes in place of the site's own.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    quantizer: Any
    kind = ""
    weight_buffers = ("stored",)  # what goes into half precision with the parameters (quantizers.py)
    macs_saved = 1.0  # MACs as the model's authors wrote it / as executed

    def __init__(self, weight: Tensor, bias: Tensor | None, port: Port | None = None) -> None:
        super().__init__()
        self.assign(weight, bias)
        self.port = port if port is not None else Port()
        self.quantizer = None
        self.out_dtype: torch.dtype | None = None  # set where a float32 island hands over to half

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

    def known_scales(self) -> Scales | None:
        """Scales with which codes lose nothing, where that is so whatever is computed (signs.py); else None."""
        return None

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1]

    def per_row(self, values: Tensor) -> Tensor:
        """[O] of the layer as its authors wrote it → one value for every row of the weight."""
        return values

    def along_inputs(self, values: Tensor) -> Tensor:
        """[C] so that it broadcasts along the weight's input channels."""
        return values.reshape([1, -1] + [1] * (self.weight.dim() - 2))

    def factors(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the operation; where a graph of a linear is made, the weight is [K, N]."""
        if self.quantizer is None:
            return self.weight, self.bias
        weight, bias = self.quantizer(self)
        return weight, bias

    def forward(self, x: Tensor, ported: bool = False) -> Tensor:
        """`ported`: x already went through the port, because other sites share it."""
        out = self.operation(x if ported else self.port(x.to(self.weight.dtype)))
        return out if self.out_dtype is None else out.to(self.out_dtype)

    def operation(self, x: Tensor) -> Tensor:
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
        return cls(conv.weight.data, data_of(conv.bias), conv.stride[0], pads or (height, width) * 2, port)

    def operation(self, x: Tensor) -> Tensor:
        top, left, bottom, right = self.pads
        weight, bias = self.factors()
        if (top, left) == (bottom, right):
            return F.conv2d(x, weight, bias, self.stride, (top, left))
        if not torch.onnx.is_in_onnx_export():
            return F.conv2d(zero_padded(x, self.pads), weight, bias, self.stride)
        kernel = weight.shape[2:]
        height = (x.shape[2] + top + bottom - kernel[0]) // self.stride + 1
        width = (x.shape[3] + left + right - kernel[1]) // self.stride + 1
        return torch.onnx.ops.symbolic(
            "Conv",
            (x, weight) if bias is None else (x, weight, bias),
            attrs={"pads": list(self.pads), "strides": [self.stride] * 2, "kernel_shape": list(kernel)},
            dtype=x.dtype,
            shape=(x.shape[0], weight.shape[0], height, width),
        )


class SiteLinear(Site):
    """Linear on the last dimension. Emitted as MatMul with a [K, N] weight, DQ axis 1 (no Transpose)."""

    kind = "linear"

    @classmethod
    def from_linear(cls, linear: nn.Linear, port: Port | None = None) -> SiteLinear:
        return cls(linear.weight.data, data_of(linear.bias), port)

    def operation(self, x: Tensor) -> Tensor:
        weight, bias = self.factors()
        if not torch.onnx.is_in_onnx_export():
            return F.linear(x, weight, bias)
        out = torch.matmul(x, weight)
        return out if bias is None else out + bias


def zero_padded(x: Tensor, pads: Sequence[int]) -> Tensor:
    """x [B, C, H, W] with zeros around it; pads: (top, left, bottom, right), ONNX order."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom))


def data_of(parameter: Tensor | None) -> Tensor | None:
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
    return {f"{part_name}.{path}": inner for path, inner in part.named_modules() if isinstance(inner, Operand)}


def group_ports(sites: Iterable[NamedSite]) -> dict[str, list[NamedSite]]:
    """Port name → the sites that it feeds, in module order."""
    groups: dict[str, list[NamedSite]] = {}
    for named in sites:
        groups.setdefault(named.port_name, []).append(named)
    return groups
