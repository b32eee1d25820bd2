"""ncnn's two files for small networks, in the forms that its converters give them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.export.networks import SMALL

HALF = 0x01306B47


class Writer:
    """Lines and weights; every tensor is called by the layer that makes it."""

    def __init__(self, half: bool) -> None:
        self.lines = ["Input in 0 1 in"]
        self.data, self.half = b"", half

    def layer(self, kind: str, *inputs: str, **numbers: object) -> str:
        name = f"n{len(self.lines)}"
        words = [f"{key[1:].replace('m', '-')}={value}" for key, value in numbers.items()]
        self.lines.append(" ".join([kind, name, str(len(inputs)), "1", *inputs, name, *words]))
        return name

    def convolution(self, x: str, module: torch.nn.Conv2d, slope: float | None = None) -> str:
        weight, side = module.weight.detach().numpy(), module.kernel_size[0]
        stored = weight.astype("<f2") if self.half else weight.astype("<f4")
        raw = struct.pack("<I", HALF if self.half else 0) + stored.tobytes()
        self.data += raw + b"\0" * (-len(raw) % 4)
        assert module.bias is not None
        self.data += module.bias.detach().numpy().astype("<f4").tobytes()
        more: dict[str, object] = {"_4": side // 2} if side > 1 else {}
        if slope is not None:
            more |= {"_9": 2, "_m23310": f"1,{slope:e}"}
        return self.layer("Convolution", x, _0=len(weight), _1=side, **more, _5=1, _6=weight.size)

    def constant(self, values: Any) -> str:
        self.data += np.asarray(values, "<f4").tobytes()
        return self.layer("MemoryData", _0=1, _1=1, _2=len(values))

    def save(self, path: Path) -> Path:
        """NET.param, and NET.bin beside it. ncnn itself wants a Split where a tensor is read twice."""
        text = "\n".join(["7767517", f"{len(self.lines)} {len(self.lines)}", *self.lines])
        path.write_text(text + "\n")
        path.with_suffix(".bin").write_bytes(self.data)
        return path


def write_ncnn(name: str, path: Path, half: bool = True, eltwise: bool = True) -> torch.nn.Module:
    """The network itself, in evaluation, whose weights half precision bears where `half` stores them."""
    torch.manual_seed(0)
    network = SMALL[name]().eval()
    if half:
        for parameter in network.parameters():
            parameter.data = parameter.data.half().float()
    file = Writer(half)
    {"Compact": _compact, "ESRGAN": _esrgan, "SPAN": _span}[name](file, network, eltwise)
    file.save(path)
    return network


def _compact(file: Writer, network: Any, _eltwise: bool) -> None:
    x = file.convolution("in", network.body[0])
    for layer in list(network.body)[1:]:
        if isinstance(layer, torch.nn.PReLU):
            x = file.layer("PReLU", x, _0=layer.weight.numel())
            file.data += layer.weight.detach().numpy().astype("<f4").tobytes()
        else:
            x = file.convolution(x, layer)
    x = file.layer("PixelShuffle", x, _0=3)
    near = file.layer("Interp", "in", _0=1, _1="3.0e+00", _2="3.0e+00")
    file.layer("BinaryOp", near, x)


def _esrgan(file: Writer, network: Any, eltwise: bool) -> None:
    def added(x: str, before: str) -> str:
        if eltwise:
            return file.layer("Eltwise", x, before, _0=1, _m23301="2,2.000000e-01,1.000000e+00")
        return file.layer("BinaryOp", file.layer("BinaryOp", x, _0=2, _1=1, _2=0.2), before, _0=0)

    head, trunk, up, _act, up2, _act2, hr, _act3, last = (
        layer for layer in network.model if not isinstance(layer, torch.nn.Upsample)
    )
    x = first = file.convolution("in", head)
    for block in list(trunk.sub)[:-1]:
        into = x
        for dense in (block.RDB1, block.RDB2, block.RDB3):
            grown = [x]
            for index in range(1, 6):
                joined = file.layer("Concat", *grown) if index > 1 else x
                conv = getattr(dense, f"conv{index}")[0]
                grown.append(file.convolution(joined, conv, 0.2 if index < 5 else None))
            x = added(grown[-1], x)
        x = added(x, into)
    x = file.layer("BinaryOp", first, file.convolution(x, trunk.sub[-1]), _0=0)
    for conv in (up, up2):
        x = file.convolution(file.layer("Interp", x, _0=1, _1="2.0", _2="2.0"), conv, 0.2)
    x = file.layer("ReLU", file.convolution(x, hr), _0=0.2)
    file.convolution(x, last)


def _span(file: Writer, network: Any, _eltwise: bool) -> None:
    def merged(x: str, module: Any) -> str:
        module.update_params()
        weight = module.eval_conv.weight
        if file.half:
            weight.data = weight.data.half().float()
        return file.convolution(x, module.eval_conv)

    x = file.layer("BinaryOp", "in", file.constant([0.4488, 0.4371, 0.404]), _0=1)
    x = first = merged(file.layer("BinaryOp", x, _0=2, _1=1, _2="2.55e+02"), network.conv_1)
    kept = []
    for index in range(1, 7):
        block, into = getattr(network, f"block_{index}"), x
        acted = file.layer("Swish", merged(x, block.c1_r))
        x = merged(file.layer("Swish", merged(acted, block.c2_r)), block.c3_r)
        attention = file.layer("BinaryOp", file.layer("Sigmoid", x), _0=1, _1=1, _2=0.5)
        x = file.layer("BinaryOp", file.layer("BinaryOp", x, into), attention, _0=2)
        kept.append((x, acted))
    x = file.layer("Concat", first, merged(x, network.conv_2), kept[0][0], kept[-1][1])
    x = file.convolution(file.convolution(x, network.conv_cat), network.upsampler[0])
    file.layer("PixelShuffle", x, _0=4)
