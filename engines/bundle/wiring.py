"""A chain as data: tensors, parts in their order, the model. It is written into every bundle's manifest.

A part's inputs are sources or outputs of parts before it; there is no general graph. Sources:

| name                | what                                                        | stride              |
| ------------------- | ----------------------------------------------------------- | ------------------- |
| `lr`                | the picture as it came                                      | the model's upscale |
| `image`             | its bicubic enlargement                                     | 1                   |
| `noise`, `noise_15` | normals of the seed and their name, alike on every backend  | the tensor's own    |

A model of several steps lists one part a step, `unet_15` to `unet_1`: nothing here or in the runtime loops.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from passionsr_trt.engines.common.errors import UserError

REFERENCE_SIZE = 512  # pixels a side; SiteInfo.macs counts one image of this size
PICTURES = ("lr", "image")
NOISE = "noise"  # names that begin so are sources too
# colour fixes: runtime/core/colour.py, as a graph export/onnx/around_chain.py
ALIGNMENTS = ("adain", "wavelet", "none")
ADAIN_EPSILON, WAVELET_LEVELS = 1e-5, 5  # of both
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # of parts and their files, which become file names
Size = tuple[int, int]  # height, width, in output pixels
T = TypeVar("T")


@dataclass(frozen=True)
class TensorInfo:
    """float32 [B, channels, H/stride, W/stride]. stride: output pixels that a position stands for; 0: a row."""

    name: str
    channels: int
    stride: int

    def at(self, size: Size, batch: int = 1) -> tuple[int, ...]:
        """The shape for a picture of `size` output pixels."""
        if not self.stride:
            return batch, self.channels
        return batch, self.channels, size[0] // self.stride, size[1] // self.stride

    def __str__(self) -> str:
        """`latent [B, 4, H/8, W/8]`."""
        sides = {0: "", 1: ", H, W"}.get(self.stride, f", H/{self.stride}, W/{self.stride}")
        return f"{self.name} [B, {self.channels}{sides}]"


@dataclass(frozen=True)
class SiteInfo:
    """One Conv or Linear: macs per 512×512 image, as executed and as the model's authors wrote it; quantized where
    the graph holds its Q/DQ.
    """

    name: str
    kind: str
    port: str
    quantized: bool
    macs: int
    macs_written: int


@dataclass(frozen=True)
class PartInfo:
    """One graph or engine. multiple: its pictures' and tiles' sides are multiples of it, in output pixels.

    float_precision: of what is not INT8, on a CPU that has both: `bfloat16` or `float32`. format: of the codes of
    its quantized sites (formats.py); where it has none, the bundle's precision. islands: nodes that stay float32
    in half precision, by name.
    """

    name: str
    file: str
    inputs: tuple[TensorInfo, ...]
    output: TensorInfo
    multiple: int
    float_precision: str = "float32"
    sites: tuple[SiteInfo, ...] = ()
    format: str = ""
    islands: tuple[str, ...] = ()

    def shapes(self, size: Size, batch: int = 1) -> dict[str, tuple[int, ...]]:
        """Input name → shape for pictures of `size`."""
        return {tensor.name: tensor.at(size, batch) for tensor in self.inputs}

    def feed(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """The part's inputs among a chain's tensors."""
        return {tensor.name: tensors[tensor.name] for tensor in self.inputs}

    @property
    def finest(self) -> int:
        """The smallest stride of its tensors: 1 where it works on full-resolution rows."""
        return min(tensor.stride for tensor in (*self.inputs, self.output) if tensor.stride)


@dataclass(frozen=True)
class ModelInfo:
    """What the chain must know of the model. family is shown, never branched on; align: its usual colour fix.

    size: the one picture size (height, width) of a fixed export, with a batch of 1; None: any. overlap: of tiles,
    in output pixels, unless the user says otherwise. name: as people call it, empty where nobody said.
    """

    digest: str
    family: str
    upscale: int
    align: str
    size: Size | None = None
    overlap: int = 64
    name: str = ""


class Wired(Protocol):
    """A part of a chain, before or after export."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...
    @property
    def output(self) -> TensorInfo: ...
    @property
    def multiple(self) -> int: ...


def chain_multiple(parts: Sequence[Wired]) -> int:
    """Picture sides are padded to it."""
    return math.lcm(*(part.multiple for part in parts))


def reference_size(parts: Sequence[Wired], side: int = REFERENCE_SIZE) -> Size:
    """Of a square of `side` output pixels, or the next above it that a chain takes."""
    multiple = chain_multiple(parts)
    return (-(-side // multiple) * multiple,) * 2


def is_size(size: Size, multiple: int) -> bool:
    """Can a chain of this multiple have pictures of that size?"""
    return all(0 < side <= 1 << 16 and side % multiple == 0 for side in size)


def chain_grid(parts: Sequence[Wired]) -> int:
    """Output pixels from one position to the next that every tensor of a chain has."""
    tensors = (tensor for part in parts for tensor in (*part.inputs, part.output))
    return math.lcm(*(tensor.stride or 1 for tensor in tensors))


def is_noise(name: str) -> bool:
    """Is a tensor of this name seeded normals that the runtime draws?"""
    return name.startswith(NOISE)


def is_source(name: str) -> bool:
    """Does the runtime hand in a tensor of this name?"""
    return name in PICTURES or is_noise(name)


def sources_of(parts: Sequence[Wired]) -> dict[str, TensorInfo]:
    """The sources that a chain takes, by name."""
    return {tensor.name: tensor for part in parts for tensor in part.inputs if is_source(tensor.name)}


def picture_size(tensors: Iterable[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> Size:
    """The output pixels that the shapes [B, C, h, w] of some tensors stand for."""
    known = next(tensor for tensor in tensors if tensor.stride and tensor.name in shapes)
    height, width = shapes[known.name][2:]
    return height * known.stride, width * known.stride


def check_wiring(parts: Sequence[PartInfo], where: str) -> None:
    """UserError where the parts are no chain: an input that nothing gives, a stride that does not divide."""
    if not parts:
        raise UserError(f"{where}: no parts", "expected one at least")
    _check_names(parts, where)
    given: dict[str, TensorInfo] = {}
    for part in parts:
        _check_tensors(part, where)
        for tensor in part.inputs:
            _check_input(part, tensor, given, where)
        if part.output.name in given or is_source(part.output.name):
            again = "again" if part.output.name in given else "as if it were a source"
            raise UserError(f"{where}: {part.name} gives {part.output.name!r} {again}", "expected a new name")
        given[part.output.name] = part.output
    last = parts[-1].output
    if (last.channels, last.stride) != (3, 1):
        raise UserError(f"{where}: the chain ends with {last}", "expected a picture [B, 3, H, W]")


def _check_names(parts: Sequence[PartInfo], where: str) -> None:
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise UserError(f"{where}: two parts of one name", f"expected different ones, not {', '.join(names)}")
    for name in (name for part in parts for name in (part.name, part.file)):
        if name and not NAME.fullmatch(name):
            raise UserError(f"{where}: a part is called {name!r}", "expected letters, digits, _, - and .")


def _check_tensors(part: PartInfo, where: str) -> None:
    """Of one part alone: sizes that can be, a picture among the inputs, a multiple that fits all strides."""
    tensors = (*part.inputs, part.output)
    for tensor in tensors:
        if not (1 <= tensor.channels <= 1 << 16 and 0 <= tensor.stride <= 1 << 12):
            raise UserError(f"{where}: {part.name} has {tensor}", "expected channels from 1 on, strides from 0 on")
    if not any(tensor.stride for tensor in part.inputs):
        raise UserError(f"{where}: {part.name} takes no picture", "expected an input with a stride")
    strides = {tensor.stride for tensor in tensors} - {0}
    if part.multiple < 1 or any(part.multiple % stride for stride in strides):
        raise UserError(f"{where}: {part.name} has multiple {part.multiple}", "expected one of its strides'")


def _check_input(part: PartInfo, tensor: TensorInfo, given: dict[str, TensorInfo], where: str) -> None:
    """given: sources and outputs of the parts before, by name; a source is added."""
    known = given.get(tensor.name)
    if known is None and not is_source(tensor.name):
        raise UserError(
            f"{where}: {part.name} takes {tensor.name!r}, which no part before it gives",
            f"expected one of {', '.join(dict.fromkeys((*PICTURES, NOISE, *given)))}",
        )
    if known is not None and known != tensor:
        raise UserError(f"{where}: {part.name} takes {tensor}", f"expected {known}")
    if tensor.name in PICTURES and tensor.channels != 3:
        raise UserError(f"{where}: {part.name} takes {tensor}", "expected a picture's 3 channels")
    if is_source(tensor.name):
        given[tensor.name] = tensor
