"""What is known of a part's quantization, as a value: frozen, printable, compared by content.

| value     | of                | holds                                                                           |
| --------- | ----------------- | ------------------------------------------------------------------------------- |
| Let       | a port            | x̃ = (x − shift)/scale, per channel: scale [C] > 0, shift [C]                    |
| PortQuant | a port            | Δ of x̃, a scalar > 0; the zero point a: x = 0 has the code −a; LET              |
| SiteQuant | a site            | Δ [O] > 0 of W̃; rounding offsets; gain [O] > 0, which Δ is multiplied with;     |
|           |                   | bias [O], which is added to the site's                                          |
| PartQuant | a part or several | a PortQuant of each port and operand, a SiteQuant of each site, by full names   |

A site or a port without a row is float. Tensors are float32, offsets are packed (`pack_offsets`).
What LET and the zero point do is in the weights once they are folded (fold.py); then a port has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.quantize.grids import Grid
from torch import Tensor

V = TypeVar("V", bound="Value")
FULL = Grid.of(QuantSpec())


class Value:
    """Equal where the contents of all fields are, bit by bit; printed as shapes and ranges."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(
            _equal(getattr(self, entry.name), getattr(other, entry.name)) for entry in _fields(self)
        )

    def __repr__(self) -> str:
        stated = {entry.name: getattr(self, entry.name) for entry in _fields(self)}
        text = (f"{name}={_printed(value)}" for name, value in stated.items() if value is not None)
        return f"{type(self).__name__}({', '.join(text)})"

    def map(self: V, change: Callable[[Tensor], Tensor]) -> V:
        """The same with every tensor within changed."""
        return replace(self, **{entry.name: _mapped(getattr(self, entry.name), change) for entry in _fields(self)})  # type: ignore[type-var]

    def on(self: V, device: torch.device) -> V:
        return self.map(lambda tensor: tensor.to(device))


@dataclass(frozen=True, eq=False, repr=False)
class Let(Value):
    """LET: x̃ = (x − shift)/scale."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class PortQuant(Value):
    """Of a port: x̃ ≈ scale·code."""

    scale: Tensor
    zero_point: int = 0
    let: Let | None = None

    def shift(self) -> Tensor | None:
        """[C]: all that is subtracted from x, LET's shift and the zero point's s·a·Δ; None without LET."""
        if self.let is None:
            return None
        return self.let.shift + self.let.scale * (self.zero_point * self.scale)


@dataclass(frozen=True, eq=False, repr=False)
class SiteQuant(Value):
    """Of a site: W̃ ≈ gain·scale·code, B̃ = B + bias."""

    scale: Tensor
    offsets: Tensor | None = None
    gain: Tensor | None = None
    bias: Tensor | None = None

    def code_worth(self) -> Tensor:
        """[O]: what one code of a row stands for."""
        return self.scale if self.gain is None else self.scale * self.gain

    def rounding_offsets(self, shape: torch.Size) -> Tensor | None:
        """int8 of the weight's shape, or None where codes are the nearest."""
        return None if self.offsets is None else unpack_offsets(self.offsets, shape)


@dataclass(frozen=True, eq=False, repr=False)
class PartQuant(Value):
    """Of a part, or of several: what is quantized there, in codes of a grid."""

    ports: Mapping[str, PortQuant] = field(default_factory=dict)
    sites: Mapping[str, SiteQuant] = field(default_factory=dict)
    grid: Grid = FULL

    def without(self, names: Collection[str]) -> PartQuant:
        """These sites float, and the ports that bear their names."""
        return self.rows(lambda name: name not in names)

    def rows(self, chosen: Callable[[str], bool]) -> PartQuant:
        """The rows whose names are chosen."""
        ports = {name: row for name, row in self.ports.items() if chosen(name)}
        return replace(self, ports=ports, sites={name: row for name, row in self.sites.items() if chosen(name)})

    def __or__(self, other: PartQuant) -> PartQuant:
        """Rows of both; the other's where both have one."""
        return replace(other, ports={**self.ports, **other.ports}, sites={**self.sites, **other.sites})


def pack_offsets(offsets: Tensor) -> Tensor:
    """−1, 0 or 1 for each weight, four to a byte: uint8 [⌈n/4⌉], the first in the lowest two bits."""
    digits = torch.nn.functional.pad((offsets.flatten() + 1).to(torch.uint8), (0, -offsets.numel() % 4))
    digits = digits.reshape(-1, 4)
    return digits[:, 0] | digits[:, 1] << 2 | digits[:, 2] << 4 | digits[:, 3] << 6


def unpack_offsets(packed: Tensor, shape: torch.Size) -> Tensor | None:
    """int8 offsets of a weight's `shape`, or None where they are not its own."""
    if packed.dtype != torch.uint8 or packed.shape != (-(-shape.numel() // 4),):
        return None
    digits = torch.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], dim=1).flatten()[: shape.numel()]
    return None if bool((digits == 3).any()) else (digits.to(torch.int8) - 1).reshape(shape)


def _fields(value: Value) -> Any:
    return fields(value)  # type: ignore[arg-type]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(row, other[name]) for name, row in one.items())
    return bool(one == other)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: row.map(change) for name, row in value.items()}
    if isinstance(value, Tensor):
        return change(value)
    return value.map(change) if isinstance(value, Value) else value


def _printed(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {row}' for name, row in value.items())}}}"
    if not isinstance(value, Tensor):
        return repr(value)
    if value.dim() == 0:
        return f"{float(value):.4g}"
    span = f" {float(value.min()):.4g} … {float(value.max()):.4g}" if value.is_floating_point() else ""
    return f"{list(value.shape)}{span}"
