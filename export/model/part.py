"""A part and a model: modules with their wiring, as a family hands them in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from passionsr_trt.engines.bundle.wiring import (
    REFERENCE_SIZE,
    ModelInfo,
    PartInfo,
    SiteInfo,
    Size,
    TensorInfo,
    is_noise,
    sources_of,
)
from passionsr_trt.export.model.absorb import Absorb, Absorber, resolve
from passionsr_trt.export.model.hooks import watching_outputs
from passionsr_trt.export.model.proof import prove
from passionsr_trt.export.model.sites import NamedSite, Operand, Port, named_operands, named_sites
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
PROOF_SIDE = 64


@dataclass
class Part:
    """A deployable module and how it is wired (engines/bundle/wiring.py).

    absorb: which neighbours absorb which port. blocks: kinds of modules whose sites learn together.
    float_precision: `bfloat16` where what stays float bears it. ends: the sites that run first and last, if not
    listed so (see `first_and_last`).
    float_inputs: it learns on the float parts' outputs, where those before it would change what it decides.
    decides: signs hang on the last bit of its sums; another order of summing gives what a slight change of its
    inputs gives.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorInfo, ...]
    output: TensorInfo
    multiple: int
    float_precision: str = "float32"
    absorb: tuple[Absorb, ...] = ()
    blocks: tuple[type[nn.Module], ...] = ()
    ends: tuple[str, ...] = ()
    float_inputs: bool = False
    decides: bool = False

    @property
    def device(self) -> torch.device:
        """Where its weights are; all of a part are in one place."""
        held = itertools.chain(self.module.parameters(), self.module.buffers())
        return next((tensor.device for tensor in held), torch.device("cpu"))

    def sites(self) -> list[NamedSite]:
        return list(named_sites(self.module, self.name))

    @property
    def first_and_last(self) -> tuple[str, str]:
        """Names of the sites that run first and last: a spec may keep them float, half precision leaves them."""
        names = self.ends or [named.name for named in self.sites()]
        return names[0], names[-1]

    def operands(self) -> dict[str, Operand]:
        return named_operands(self.module, self.name)

    def absorbers(self) -> dict[Port, Absorber]:
        return resolve(self.module, self.absorb)

    def feed(self, tensors: Tensors) -> tuple[Tensor, ...]:
        """The part's inputs among a chain's tensors, in its order."""
        return tuple(tensors[tensor.name] for tensor in self.inputs)

    def run(self, tensors: Tensors) -> Tensor:
        output: Tensor = self.module(*self.feed(tensors))
        return output

    def info(self, file: str, tensors: Tensors, quantized: Collection[str] = ()) -> PartInfo:
        """What the manifest says of it; MACs are counted on `tensors` and scaled by the area, which is exact.

        quantized: names of the sites that are.
        """
        sites = self.site_infos(tensors, quantized)
        return PartInfo(self.name, file, self.inputs, self.output, self.multiple, self.float_precision, sites)

    @torch.no_grad()
    def site_infos(self, tensors: Tensors, quantized: Collection[str] = ()) -> tuple[SiteInfo, ...]:
        """Every site with its MACs at the reference size."""
        counted: dict[str, int] = {}

        def count(named: NamedSite, output: Tensor) -> None:
            counted[named.name] = output.numel() * named.site.weight[0].numel()

        with watching_outputs((named.site, partial(count, named)) for named in self.sites()):
            output = self.run(tensors)
        pixels = output.shape[0] * output.shape[2] * output.shape[3] * self.output.stride**2
        infos = []
        for named in self.sites():
            site, macs = named.site, counted.get(named.name, 0) * REFERENCE_SIZE**2 // pixels
            written = round(macs * site.macs_saved)
            infos.append(SiteInfo(named.name, site.kind, named.port_name, named.name in quantized, macs, written))
        return tuple(infos)


@dataclass
class Model:
    """A chain of parts. reference: sources → every part's output, as the model's authors wrote it (float32).

    align: the colour fix that suits it. overlap: finds that of tiles, in output pixels. errors: of each part's
    folds, end to end. draws_noise: calibration draws noise as the runtime does; else it is 0, its mean.
    """

    family: str
    digest: str
    upscale: int
    align: str
    parts: tuple[Part, ...]
    reference: Callable[[Tensors], Tensors] | None
    errors: dict[str, float] = field(default_factory=dict)
    overlap: Callable[[], int] = lambda: ModelInfo.overlap
    draws_noise: bool = False

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def forget_reference(self) -> None:
        """Let the original's weights go; parts share those that no fold changed."""
        self.reference = None

    @torch.no_grad()
    def run(self, sources: Tensors) -> dict[str, Tensor]:
        """Sources → every tensor of the chain, by the parts as they stand."""
        tensors = dict(sources)
        for part in self.parts:
            tensors[part.output.name] = part.run(tensors)
        return tensors

    @torch.no_grad()
    def prove(self, sources: Tensors) -> None:
        """Every part against the reference, fed its tensors; FoldError names the part."""
        assert self.reference is not None
        tensors = {**sources, **self.reference(sources)}
        for part in self.parts:
            self.errors[part.name] = prove(part.name, tensors[part.output.name], part.run(tensors))


def proof_size(multiple: int) -> Size:
    """The least different height and width, from PROOF_SIDE output pixels on, of what takes multiples of one."""
    height = -(-PROOF_SIDE // multiple) * multiple
    return height, height + multiple


def smooth_sources(parts: Sequence[Part], size: Size, batch: int = 1, seed: int = 1) -> dict[str, Tensor]:
    """Sources for a proof: smooth seeded pictures of `size` output pixels in [-1, 1], and seeded noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, size[0] // 8, size[1] // 8, generator=generator) * 2 - 1
    made = {}
    for tensor in sources_of(parts).values():
        shape = tensor.at(size, batch)
        if is_noise(tensor.name):
            made[tensor.name] = torch.randn(shape, generator=generator)
        else:
            picture = nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic")
            made[tensor.name] = picture.clamp(-1, 1)
    return made
