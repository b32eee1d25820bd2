"""The whole chain as one ONNX file for other tools: low-resolution picture in, picture out.

    lr [N, 3, h, w] in [0, 1] → picture [N, 3, s·h, s·w] in [0, 1]

Around the bundle's parts, with their nodes as they are:
1. the bicubic enlargement of its 8 bits, equal to Pillow's (bicubic.py);
2. mirroring out to the chain's multiple, at the bottom and on the right, and the ranges of the parts' sources;
3. cropping, clamping, the colour fix, and back to [0, 1].
Noise that a model takes is an input, under its own name. Sides have to be larger than what is mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.wiring import TensorInfo, chain_multiple, is_noise, sources_of
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.graph.rewriting import save
from passionsr_trt.engines.pictures.pictures import chain_sources, to_array, upscale
from passionsr_trt.export.model.part import proof_size
from passionsr_trt.export.model.proof import FoldError
from passionsr_trt.export.onnx.around_chain import after, before, numbers, of_chain
from PIL import Image

LARGEST = 2**31 - 2**20  # bytes of a protobuf; above, weights lie beside the file


def write_single_file(bundle: OnnxBundle, path: Path, align: str | None = None) -> None:
    """Write a bundle's chain as one graph, proved against the bundle's own; align: None for the model's.

    FoldError where the two differ, UserError where it cannot be written. Weights beyond a protobuf's 2 GB lie
    beside it in FILE.data.
    """
    model = ir.from_proto(single_graph(bundle, align or bundle.model.align))
    ir.external_data.set_base_dir(model.graph, bundle.folder)
    with temporary_folder(path.parent) as folder:
        made = folder / path.name
        try:
            save(model, made, LARGEST)
            onnx.checker.check_model(str(made))
            prove_single(bundle, made)
            for file in sorted(folder.iterdir(), key=lambda entry: entry == made):  # the graph last
                file.replace(path.with_name(file.name))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})", "expected room on the disk") from None


def prove_single(bundle: OnnxBundle, path: Path) -> None:
    """The same bits as the bundle's parts one after another, without colour fix; FoldError where they are not."""
    model = onnx.load(str(path), load_external_data=False)
    last = of_chain(bundle.parts[-1].output.name)
    model.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))
    size = bundle.model.size or proof_size(chain_multiple(bundle.parts))
    height, width = (side // bundle.model.upscale for side in size)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize((width, height))
    enlarged = to_array(upscale(picture, bundle.model.upscale))
    tensors = chain_sources(picture, enlarged, bundle.parts, seed=0)
    feed = {"lr": np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255}
    feed |= {name: x for name, x in tensors.items() if is_noise(name)}
    found = reference_session(model, node_by_node=True, folder=path.parent).run([last], feed)[0]
    for part in bundle.parts:
        session = reference_session(open_graph(bundle, part), node_by_node=True)
        tensors[part.output.name] = session.run(None, part.feed(tensors))[0]
    expected = tensors[bundle.parts[-1].output.name]
    if not np.array_equal(found, expected):
        error = float(np.abs(found - expected).max())
        raise FoldError(f"{path.name}: not the chain's picture (off by {error:.1e} at most)", "expected the same")


def single_graph(bundle: OnnxBundle, align: str) -> onnx.ModelProto:
    """The chain of a bundle between the low-resolution picture and the picture; outside weights stay outside."""
    info, parts = bundle.model, bundle.parts
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    loaded = [onnx.load(str(open_graph(bundle, part)), load_external_data=False) for part in parts]
    sources = sources_of(parts)
    first, own = before(bundle, sources, align)
    nodes += first
    for part, model in zip(parts, loaded, strict=True):
        names = {tensor.name: of_chain(tensor.name) for tensor in part.inputs}
        names[model.graph.output[0].name] = of_chain(part.output.name)
        _take(model.graph, part.name, names, nodes, constants)
    nodes += after(of_chain(parts[-1].output.name), align)
    constants += [numpy_helper.from_array(value, name) for name, value in (numbers(bundle) | own).items()]
    size = None if info.size is None else [side // info.upscale for side in info.size]
    batch: int | str = "batch" if size is None else 1
    shown: list[int | str] = [*size] if size else ["height", "width"]
    large: list[int | str] = [*(info.size or ("picture_height", "picture_width"))]
    inputs = [helper.make_tensor_value_info("lr", TensorProto.FLOAT, [batch, 3, *shown])]
    inputs += [_noise_input(tensor, info.size, batch) for name, tensor in sources.items() if is_noise(name)]
    output = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 3, *large])
    used = {name for node in nodes for name in node.input}
    constants = [constant for constant in constants if constant.name in used]
    graph = helper.make_graph(nodes, "passionsr_trt", inputs, [output], constants)
    result = helper.make_model(graph, opset_imports=loaded[0].opset_import, ir_version=loaded[0].ir_version)
    result.producer_name = "passionsr-trt"
    helper.set_model_props(result, _metadata(bundle, align))
    return result


def _metadata(bundle: OnnxBundle, align: str) -> dict[str, str]:
    """What a reader of the file has to know."""
    info = bundle.model
    return {
        "scale": str(info.upscale),
        "input": "lr: RGB in [0, 1], NCHW",
        "output": "picture: RGB in [0, 1], NCHW",
        "mirrored_to_multiples_of": f"{chain_multiple(bundle.parts)} output pixels",
        "colour_fix": align,
        "precision": bundle.label,
        "family": info.family,
        "model_digest": info.digest,
    }


def _take(
    graph: onnx.GraphProto,
    part: str,
    names: Mapping[str, str],
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
) -> None:
    """A part's nodes and constants, edges under names of their own; sites keep theirs."""

    def edge(name: str) -> str:
        if not name:
            return name
        return names.get(name, f"{part}/{name}")

    for constant in graph.initializer:
        constant.name = edge(constant.name)
        constants.append(constant)
    for node in graph.node:
        node.input[:] = [edge(name) for name in node.input]
        node.output[:] = [edge(name) for name in node.output]
        if not node.name.startswith(f"{part}."):
            node.name = f"{part}/{node.name}"
        nodes.append(node)


def _noise_input(tensor: TensorInfo, size: tuple[int, int] | None, batch: int | str) -> onnx.ValueInfoProto:
    """As large as the chain's tensor of a picture that was mirrored out."""
    sides = ["noise_height", "noise_width"] if size is None else [side // tensor.stride for side in size]
    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, [batch, tensor.channels, *sides])
