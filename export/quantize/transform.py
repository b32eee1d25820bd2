"""LET, the learnable equivalent transformation: where a port's scale s and shift δ go.

    x̃ = (x − δ)/s,  W̃ = W·s,  B̃ = B + W·δ,  so that  W̃·x̃ + B̃ = W·x + B

| port of                                        | 1/s goes into                     | δ goes into            |
| ---------------------------------------------- | --------------------------------- | ---------------------- |
| linears after LayerNorm, proj_in, VAE q/k/v     | the norm's γ and β                | the norm's β           |
| to_out of self-attention                        | rows of to_v                      | bias of to_v           |
| to_out of cross-attention                       | the constant V                    | the constant V         |
| GEGLU output linear                             | the value half of proj            | an explicit Add        |
| conv after conv → ReLU (TAESD blocks)           | rows of the conv before           | an explicit Add        |
| everything else                                 | an explicit Mul before Q          | an explicit Add        |

δ passes through attention because softmax rows sum to 1. ReLU commutes with s > 0 but not with δ.
A shifted port of a padded convolution pads in float before the Add: the padding stands for x = 0.
Folds are computed in float64 and cast back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from passionsr_trt.export.families.stable_diffusion.blocks import (
    ConstantCrossAttention,
    FeedForward,
    SelfAttention,
    SpatialSelfAttention,
    SpatialTransformer,
    TransformerBlock,
)
from passionsr_trt.export.families.stable_diffusion.tiny_vae import Pool, TinyBlock
from passionsr_trt.export.quantize.sites import NamedSite, Port, Site, SiteConv
from torch import Tensor, nn

Fold = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Absorber:
    """`fold(s, δ)` changes the neighbour; `takes_shift` is False where it can absorb s alone."""

    fold: Fold
    takes_shift: bool


def absorbers(part: nn.Module) -> dict[Port, Absorber]:
    """Every port of a part whose transformation a neighbour absorbs."""
    found: dict[Port, Absorber] = {}
    for module in part.modules():
        if isinstance(module, TransformerBlock):
            found[module.attn1.to_q.port] = into_norm(module, "norm1")
            found[module.attn2.to_q.port] = into_norm(module, "norm2")
            found[module.ff.proj.port] = into_norm(module, "norm3")
        elif isinstance(module, SpatialTransformer):
            found[module.proj_in.port] = into_norm(module, "norm")
        elif isinstance(module, SpatialSelfAttention):
            found[module.attention.to_q.port] = into_norm(module, "group_norm")
        elif isinstance(module, SelfAttention):
            found[_site(module.to_out[0]).port] = into_rows(module.to_v, takes_shift=True)
        elif isinstance(module, ConstantCrossAttention):
            found[_site(module.to_out[0]).port] = into_constant_value(module)
        elif isinstance(module, FeedForward):
            found[module.out.port] = into_rows(module.proj, takes_shift=False)
        elif isinstance(module, TinyBlock):
            first, second, third = (_site(conv) for conv in module.conv)
            found[second.port] = into_rows(first, takes_shift=False)
            found[third.port] = into_rows(second, takes_shift=False)
        elif isinstance(module, Pool):
            found[module.conv_out.port] = into_norm(module, "norm", takes_shift=False)
    return found


def _site(module: nn.Module) -> Site:
    assert isinstance(module, Site)
    return module


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
        setattr(owner, name, copy.eval().requires_grad_(False))

    return Absorber(fold, takes_shift)


def into_rows(site: Site, takes_shift: bool) -> Absorber:
    """The first len(s) output rows: W' = W/s, b' = (b − δ)/s. A weight's own quantizer follows its rows."""

    def fold(s: Tensor, delta: Tensor) -> None:
        rows = s.shape[0]
        weight = site.weight.double().clone()
        weight[:rows] /= s.reshape(-1, *([1] * (weight.dim() - 1)))
        bias = torch.zeros(weight.shape[0]).double() if site.bias is None else site.bias.double().clone()
        bias[:rows] = (bias[:rows] - delta) / s
        needs_bias = site.bias is not None or bool(delta.any())
        site.assign(weight.float(), bias.float() if needs_bias else None)
        if site.weight_scale is not None:
            scale = site.weight_scale.double().clone()
            scale[:rows] /= s
            site.weight_scale = scale.float()

    return Absorber(fold, takes_shift)


def into_constant_value(attention: ConstantCrossAttention) -> Absorber:
    """V [h, tokens, d] ← (V − δ)/s, δ and s split by head."""

    def fold(s: Tensor, delta: Tensor) -> None:
        heads, _tokens, width = attention.value.shape
        split = (heads, 1, width)
        attention.value = ((attention.value.double() - delta.reshape(split)) / s.reshape(split)).float()

    return Absorber(fold, takes_shift=True)


def may_shift_for_free(port: Port, site: Site, found: dict[Port, Absorber]) -> bool:
    """True where δ needs no Add and no Pad of its own."""
    return port in found and found[port].takes_shift and not _padded(site)


def _padded(site: Site) -> bool:
    return isinstance(site, SiteConv) and any(site.pads)


def claim_padding(site: Site) -> None:
    """Move a convolution's zero padding into its port, in front of a shift. The float result is the same."""
    if isinstance(site, SiteConv) and any(site.pads):
        site.port.pads, site.pads = site.pads, (0, 0, 0, 0)


def fold_port(sites: list[NamedSite], absorber: Absorber | None, s: Tensor, delta: Tensor) -> None:
    """Fold s [C] > 0 and δ [C] of one port, float64, into its sites and its absorber or explicit transform."""
    shifted = bool(delta.any())
    for named in sites:
        site = named.site
        if shifted:
            claim_padding(site)
        weight = site.weight.double()
        along = [1, -1] + [1] * (weight.dim() - 2)
        bias = None if site.bias is None else site.bias.double()
        if shifted:
            moved = (weight * delta.reshape(along)).flatten(1).sum(dim=1)
            bias = moved if bias is None else bias + moved
        site.assign((weight * s.reshape(along)).float(), None if bias is None else bias.float())
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
