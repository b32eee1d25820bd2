"""LET, the learnable equivalent transformation: where a port's scale s and shift δ go.

    x̃ = (x − δ)/s,  W̃ = W·s,  B̃ = B + W·δ,  so that  W̃·x̃ + B̃ = W·x + B

| a neighbour                                     | 1/s goes into          | δ goes into           |
| ----------------------------------------------- | ---------------------- | --------------------- |
| a norm in front of the port (Into.NORM)         | its γ and β            | its β                 |
| a site whose rows are the channels (Into.ROWS)  | rows of W and b        | b                     |
| an attention with a constant V (Into.VALUE)     | V                      | V                     |
| none                                            | a Mul before Q         | an Add                |

Which neighbour absorbs which port is stated by the family, row by row (Absorb). A wrong row is refused by the
proof of the fold, a missing one costs a Mul. A neighbour that cannot take δ (a ReLU or a product lies between)
leaves an Add.
δ passes through attention because softmax rows sum to 1. ReLU commutes with s > 0 but not with δ.
A shifted port of a padded convolution pads in float before the Add: the padding is that of x = 0.
Folds are computed in float64 and cast back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.model.sites import NamedSite, Port, Site, SiteConv
from torch import Tensor, nn

Fold = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Absorber:
    """`fold(s, δ)` changes the neighbour; `takes_shift` is False where it can absorb s alone.

    rows: the site whose rows it divides by s, where it is one: their scales and biases go with them.
    """

    fold: Fold
    takes_shift: bool
    rows: Site | None = None


class Into(enum.Enum):
    """What a neighbour is that absorbs a port's transformation."""

    NORM = "the affine part of a LayerNorm or GroupNorm"
    ROWS = "the output rows of a site"
    VALUE = "the constant V of an attention"


@dataclass(frozen=True)
class Absorb:
    """A row that a family states: ports of sites whose path ends in `site`, absorbed by `neighbour` beside it.

    `attn1.to_q`, `norm1`: what feeds `blocks.3.attn1.to_q` is absorbed by `blocks.3.norm1`. takes_shift: False
    where it can absorb s alone.
    """

    site: str
    neighbour: str
    into: Into = Into.NORM
    takes_shift: bool = True


def resolve(module: nn.Module, rows: Iterable[Absorb]) -> dict[Port, Absorber]:
    """Every port of a module whose transformation a neighbour absorbs; UserError for a row that fits nowhere."""
    absorbers: dict[Port, Absorber] = {}
    modules = dict(module.named_modules())
    for path, site in modules.items():
        for row in rows:
            if isinstance(site, Site) and f".{path}".endswith(f".{row.site}"):
                place = path[: len(path) - len(row.site)]
                absorbers[site.port] = _absorber(modules, f"{place}{row.neighbour}".rstrip("."), row)
    return absorbers


def _absorber(modules: dict[str, nn.Module], neighbour: str, row: Absorb) -> Absorber:
    target = modules.get(neighbour)
    if row.into is Into.NORM and isinstance(target, nn.LayerNorm | nn.GroupNorm):
        holder, _dot, name = neighbour.rpartition(".")
        return into_norm(modules[holder], name, row.takes_shift)
    if row.into is Into.ROWS and isinstance(target, Site):
        return into_rows(target, row.takes_shift)
    if row.into is Into.VALUE and target is not None and isinstance(getattr(target, "value", None), Tensor):
        return into_constant_value(target)
    raise UserError(
        f"{neighbour}: cannot absorb {row.site}", f"expected {row.into.value}", "mend the family's row"
    )


def into_norm(owner: nn.Module, name: str, takes_shift: bool = True) -> Absorber:
    """γ' = γ/s, β' = (β − δ)/s. The norm is replaced by a copy: the original model may share it."""

    def fold(s: Tensor, delta: Tensor) -> None:
        norm = getattr(owner, name)
        gamma, beta = norm.weight.double() / s, (norm.bias.double() - delta) / s
        copy: nn.Module
        if isinstance(norm, nn.LayerNorm):
            copy = nn.LayerNorm(norm.normalized_shape, norm.eps)
        else:
            copy = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps)
        copy.load_state_dict({"weight": gamma.float(), "bias": beta.float()})
        setattr(owner, name, copy.to(gamma.device).eval().requires_grad_(False))

    return Absorber(fold, takes_shift)


def into_rows(site: Site, takes_shift: bool) -> Absorber:
    """The first len(s) output channels: W' = W/s, b' = (b − δ)/s."""

    def fold(s: Tensor, delta: Tensor) -> None:
        scales, shifts = site.per_row(s), site.per_row(delta)
        rows = scales.shape[0]
        weight = site.weight.double().clone()
        weight[:rows] /= scales.reshape(-1, *([1] * (weight.dim() - 1)))
        bias = weight.new_zeros(weight.shape[0]) if site.bias is None else site.bias.double().clone()
        bias[:rows] = (bias[:rows] - shifts) / scales
        needs_bias = site.bias is not None or bool(delta.any())
        site.assign(weight.float(), bias.float() if needs_bias else None)

    return Absorber(fold, takes_shift, site)


def into_constant_value(attention: Any) -> Absorber:
    """V [h, tokens, d] ← (V − δ)/s, δ and s split by head."""

    def fold(s: Tensor, delta: Tensor) -> None:
        heads, _tokens, width = attention.value.shape
        split = (heads, 1, width)
        attention.value = ((attention.value.double() - delta.reshape(split)) / s.reshape(split)).float()

    return Absorber(fold, takes_shift=True)


def may_shift_for_free(port: Port, site: Site, absorbers: dict[Port, Absorber]) -> bool:
    """True where δ needs no Add and no Pad of its own."""
    return port in absorbers and absorbers[port].takes_shift and not _padded(site)


def _padded(site: Site) -> bool:
    return isinstance(site, SiteConv) and any(site.pads)


def pad_before_shift(sites: Iterable[NamedSite]) -> None:
    """Move convolutions' zero padding into their port, in front of a shift. The float result is the same."""
    for named in sites:
        site = named.site
        if isinstance(site, SiteConv) and any(site.pads):
            site.port.pads, site.pads = site.pads, (0, 0, 0, 0)


@contextmanager
def keeping_padding(groups: Iterable[Sequence[NamedSite]]) -> Iterator[None]:
    """Paddings that moved from sites into their ports while the context lasted go back."""
    sites = [named.site for group in groups for named in group]
    before = [(site, getattr(site, "pads", ()), site.port.pads) for site in sites]
    try:
        yield
    finally:
        for site, site_pads, port_pads in before:
            site.port.pads = port_pads
            if isinstance(site, SiteConv):
                site.pads = site_pads


def fold_port(sites: list[NamedSite], absorber: Absorber | None, s: Tensor, delta: Tensor) -> None:
    """Fold s [C] > 0 and δ [C] of one port, float64, into its sites and its absorber, or its own transform."""
    shifted = bool(delta.any())
    if shifted:
        pad_before_shift(sites)
    for named in sites:
        site = named.site
        weight = site.weight.double()
        bias = None if site.bias is None else site.bias.double()
        if shifted:
            moved = (weight * site.along_inputs(delta)).flatten(1).sum(dim=1)
            bias = moved if bias is None else bias + moved
        site.assign((weight * site.along_inputs(s)).float(), None if bias is None else bias.float())
    port = sites[0].site.port
    left_over = torch.zeros_like(delta)
    if absorber is not None:
        absorbed = delta if absorber.takes_shift else torch.zeros_like(delta)
        absorber.fold(s, absorbed)
        left_over = (absorbed - delta) / s
    else:
        port.multiplier = _broadcast((1 / s).float(), sites[0].site)
        left_over = -delta / s
    if bool(left_over.any()):
        port.offset = _broadcast(left_over.float(), sites[0].site)


def _broadcast(values: Tensor, site: Site) -> Tensor:
    return values.reshape(1, -1, 1, 1) if isinstance(site, SiteConv) else values
