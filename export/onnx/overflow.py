"""How far do half precision's tensors reach? Measured on pictures, and kept within it.

1. max |x| of every half-precision tensor of a graph, computed in float32 (engines/graph/half_precision.py).
2. A tensor beyond LARGEST/MARGIN gets a float32 island (islands.py).
3. The graph is then computed as a GPU does, every result rounded to half precision, on the pictures that reached
   furthest: UserError where that gives what is no number.

Not seen is what a kernel keeps to itself: sums within a norm, which TensorRT computes in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from passionsr_trt.engines.bundle.wiring import PartInfo, Size, reference_size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.engines.graph.half_precision import (
    HALF,
    LARGEST,
    half_tensors,
    in_float32,
    types_of,
    with_largest,
)
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.graph.rewriting import save
from passionsr_trt.engines.pictures.drawn import photo_like
from passionsr_trt.engines.pictures.drawn_set import drawn_set
from passionsr_trt.engines.pictures.pictures import chain_sources, read_picture, to_array, upscale
from passionsr_trt.export.model.part import Model
from passionsr_trt.export.onnx.islands import Float32Islands
from PIL import Image

MARGIN = 4.0  # pictures that nobody measured may reach further
PHOTOS, SIDE = 8, 256  # so many of the user's pictures; output pixels a side of what is measured on
OTHERWISE = "export with --precision bf16 (compute capability 8.0 and newer) or fp32"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reached:
    """largest: max |x| of a part's half-precision tensors, of what node `at` gives. nodes: of the islands, by
    name; tensors: how many reach too far.
    """

    largest: float
    at: str
    nodes: tuple[str, ...] = ()
    tensors: int = 0

    def line(self, part: str) -> str:
        """For a reader."""
        found = f"half precision ends at {LARGEST:.0f}; {self.at} reaches {self.largest:.4g}"
        if not self.nodes:
            return f"{part:<12} {found}, {LARGEST / max(self.largest, 1e-9):.3g} times less"
        return f"{part:<12} {found}: float32 around {self.tensors} tensors: {', '.join(self.nodes)}"


def pictures_to_measure(model: Model, files: Sequence[Path], size: Size | None) -> list[Arrays]:
    """Sources of the middle of the user's pictures, of drawn ones, and of one like a photo.

    size: of a graph that takes one alone, in output pixels.
    """
    sides = size or reference_size(model.parts, SIDE)
    height, width = (-(-side // model.upscale) for side in sides)
    pictures = [read_picture(path).rgb for path in files]
    pictures += [*drawn_set(max(height, width)).values(), photo_like((height, width))]
    cut = [_middle(picture, width, height) for picture in pictures]
    return [
        chain_sources(rgb, to_array(upscale(rgb, model.upscale)), model.parts, index, sides)
        for index, rgb in enumerate(cut)
    ]


def _middle(rgb: Image.Image, width: int, height: int) -> Image.Image:
    """A picture's middle, mirrored out where it is smaller."""
    if rgb.width < width or rgb.height < height:
        pixels, missing = np.asarray(rgb), (max(height - rgb.height, 0), max(width - rgb.width, 0))
        rgb = Image.fromarray(np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric"))
    left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
    return rgb.crop((left, top, left + width, top + height))


def keep_within(path: Path, part: PartInfo, pictures: Sequence[Arrays]) -> Reached:
    """Put islands into the graph in `path` where they are needed. pictures: tensors of the chain, to which the
    part's output is added.

    UserError where a constant, or with islands still a result, is too large for half precision.
    """
    model = onnx.load(str(path), load_external_data=False)
    _check_constants(model, path)
    tensors = half_tensors(model)
    widened = with_largest(in_float32(model, rounded=False), tensors)
    session = reference_session(widened, folder=path.parent)
    reached: list[dict[str, float]] = []
    for picture in pictures:
        output, *largest = session.run(None, part.feed(picture))
        picture[part.output.name] = output
        reached.append({name: float(most) for name, most in zip(tensors, largest, strict=True)})
    most = {name: max(each[name] for each in reached) for name in tensors}
    givers = {name: node.name for node in model.graph.node for name in node.output}
    if not most:
        return Reached(0.0, "nothing")
    furthest = max(most, key=lambda name: most[name])
    beyond = [name for name, value in most.items() if not value <= LARGEST / MARGIN]
    if not beyond:
        return Reached(most[furthest], givers[furthest])
    islands = Float32Islands(beyond, types_of(model))
    graph = islands(ir.load(path)).model
    names = tuple(node.name or "" for node in graph.graph if node.outputs[0].name in islands.within)
    _save_over(graph, path)
    onnx.checker.check_model(str(path))
    _prove(path, part, [pictures[index] for index in _furthest(reached)])
    return Reached(most[furthest], givers[furthest], names, len(beyond))


def _save_over(model: ir.Model, path: Path) -> None:
    """A graph in the place of the one that its weights are mapped from."""
    with temporary_folder(path.parent) as folder:
        save(model, folder / path.name)
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        for file in folder.iterdir():
            file.replace(path.with_name(file.name))


def _check_constants(model: onnx.ModelProto, path: Path) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type != HALF:
            continue
        copied = onnx.TensorProto()
        copied.CopyFrom(tensor)  # reading a weight from beside the graph changes it
        if not np.isfinite(numpy_helper.to_array(copied, str(path.parent))).all():
            raise UserError(f"{path.stem}: {tensor.name} is too large for half precision", "", OTHERWISE)


def _furthest(reached: Sequence[Mapping[str, float]]) -> list[int]:
    """The pictures that some tensor reached furthest on."""
    return sorted({max(range(len(reached)), key=lambda index: reached[index][name]) for name in reached[0]})


def _prove(path: Path, part: PartInfo, pictures: Sequence[Mapping[str, np.ndarray]]) -> None:
    """UserError where the graph as a GPU computes it gives what is no number."""
    session = reference_session(path)
    for picture in pictures:
        if not np.isfinite(session.run(None, part.feed(picture))[0]).all():
            raise UserError(f"{part.name}: half precision overflows beside its float32 islands", "", OTHERWISE)
