"""Names of nodes and weights: the exporter writes them, and lists of an engine's layers bear them.

    SITE                                       a site's Conv, MatMul or Gemm; a site is PART.PATH of its module
    SITE/weight/DequantizeLinear               of the site's weight
    PORT/input/QuantizeLinear, …/DequantizeLinear   of what the sites of a port read
    NAME/phase0 … NAME/phase3, NAME/as_convolution  what a rewriting made of a named node
    NAME/…                                     what a rewriting or a backend put beside it
    PART/NAME                                  in a file of the whole chain, a node that is no site's and no port's

Names of other nodes are the exporter's own: `node_softmax_3`, `node_Cast_12`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
WEIGHT, INPUT = "weight", "input"
STORED, FLOAT = ".stored", ".weight"  # how a site's weight ends: codes or float as stored, or as the module has it
_PAIRS = {(WEIGHT, DEQUANTIZE), (INPUT, QUANTIZE), (INPUT, DEQUANTIZE)}
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class NodeName:
    """A node's name in its pieces, none of which holds a slash. owner: the site or port; of: `weight` or `input`
    where the node is a Q or DQ, then `kind`; more: what was put behind.
    """

    owner: str
    of: str = ""
    kind: str = ""
    more: tuple[str, ...] = ()

    @property
    def converts(self) -> bool:
        """Is it a Q, a DQ or a Cast?"""
        last = self.more[-1] if self.more else self.kind or self.owner
        return last in (QUANTIZE, DEQUANTIZE) or "cast" in last.lower()


def format_name(name: NodeName) -> str:
    """The text of a name, which `parse_name` reads back."""
    return "/".join((name.owner, *([name.of, name.kind] if name.kind else []), *name.more))


def parse_name(text: str) -> NodeName:
    """The pieces of any text; one that is in no form of ours has an owner and perhaps more."""
    owner, *rest = text.split("/")
    if tuple(rest[:2]) in _PAIRS:
        return NodeName(owner, rest[0], rest[1], tuple(rest[2:]))
    return NodeName(owner, more=tuple(rest))


def owner_of(text: str) -> str:
    """The site or port that a node's name begins with."""
    return parse_name(text).owner


def weight_node(site: str) -> str:
    """Of a site's weight: its DequantizeLinear."""
    return format_name(NodeName(site, WEIGHT, DEQUANTIZE))


def port_node(port: str, kind: str) -> str:
    """Of a port: its QuantizeLinear or DequantizeLinear."""
    return format_name(NodeName(port, INPUT, kind))


def phase_of(name: str | None, index: int) -> str:
    """A node or constant of one phase of a convolution in sub-pixel form."""
    return f"{name}/phase{index}"


def as_convolution(name: str | None) -> str:
    """A node of a port that linears read as a convolution, beside the port's own."""
    return f"{name}/as_convolution"


def written_as(name: str) -> str:
    """The name, in the bundle, of the node that a port's node in an engine was made from."""
    return name.removesuffix(as_convolution(""))


def site_of_weight(part: str, constant: str) -> str | None:
    """The site of a part whose weight a constant is; None for other constants."""
    return f"{part}.{constant.removesuffix(STORED)}" if constant.endswith(STORED) else None


def weight_names(part: str, site: str) -> tuple[str, str]:
    """How the constant of a site's weight may be called in its part."""
    path = site.removeprefix(f"{part}.")
    return f"{path}{STORED}", f"{path}{FLOAT}"


def origins(metadata: str) -> list[str]:
    """The nodes that TensorRT says a kernel does the work of: `[ONNX Layer: a]`, several parted by anything."""
    return _ORIGIN.findall(metadata)


def fuse_attention(names: Sequence[str]) -> bool:
    """Are these the nodes of a kernel that does a softmax and a product of its in one?"""
    return any(map(is_softmax, names)) and any("matmul" in name for name in names)


def is_softmax(name: str) -> bool:
    """Is it a softmax of attention, by the exporter's own name?"""
    return "softmax" in name
