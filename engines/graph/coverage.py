"""Coverage, read from the built engine: which sites really run INT8 or FP8, kernels by kind, bytes.

| backend      | read from                                | a site runs INT8 (FP8) when                          |
| ------------ | ---------------------------------------- | ---------------------------------------------------- |
| OpenVINO     | the compiled model's execution graph     | its kernel's name ends in I8                         |
| TensorRT     | the engine inspector's JSON              | its layer has an Int8 (FP8) input besides constants  |
| TensorRT-RTX | the builder's layer list (verbose log)   | the same                                             |

Where weights alone are in codes, a site does where its layer has an Int8 (FP8) weight among its constants, or
reads what a layer without inputs makes of one: folded when it is built, the weight would be float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from passionsr_trt.engines.bundle.bundles import Coverage
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, FP8, INT8
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.names import fuse_attention, is_softmax, owner_of, parse_name, site_of_weight


@dataclass(frozen=True)
class Layer:
    """One layer of a built engine. `names`: the ONNX nodes it came from. bytes_moved, macs: 0 where unknown;
    precision: what it reads, as TensorRT names it; codes: the type of the codes that it multiplies, Int8 or FP8,
    empty for every other kernel; weights: the type of the codes that its weights are stored in, or empty;
    attention: softmax and its products in one kernel.
    """

    name: str
    kind: str
    codes: str
    names: tuple[str, ...] = ()
    bytes_moved: int = 0
    macs: int = 0
    precision: str = ""
    attention: bool = False
    weights: str = ""


def measure(part: PartInfo, layers: Iterable[Layer], kinds: Counter[str]) -> Coverage:
    """Match layers with the sites of a part by name. UserError where a quantized site is in no layer at all."""
    layers, sites = list(layers), part.sites
    entry = CODE_FORMATS.get(part.format)
    wanted, weights_only = (entry.layer_type, entry.weights_only) if entry else ("", False)
    runs: dict[str, bool] = {}
    for layer in layers:
        found = layer.weights if weights_only else layer.codes
        for name in layer.names:
            runs[name] = runs.get(name, False) or (bool(wanted) and found == wanted)
    quantized = [site for site in sites if site.quantized]
    lost = [site.name for site in quantized if site.name not in runs]
    if lost:
        raise UserError(f"{lost[0]}: not found in the engine's layers", f"expected all {len(quantized)} sites")
    total = sum(site.macs for site in sites)
    running = [site for site in quantized if runs[site.name]]
    sized = all(layer.bytes_moved for layer in layers if layer.codes)
    return Coverage(
        sites_int8=len(running) if entry == INT8 else 0,
        sites_fp8=len(running) if entry == FP8 else 0,
        sites_weights=len(running) if weights_only else 0,
        sites_quantized=len(quantized),
        macs_share=sum(site.macs for site in running) / total if total else 0.0,
        kernels=dict(kinds.most_common()),
        bytes_moved=sum(layer.bytes_moved for layer in layers) if sized else 0,
        float_sites=[site.name for site in quantized if not runs[site.name]],
        attention_fused=sum(layer.attention for layer in layers),
        attention=len({name for layer in layers for name in layer.names if is_softmax(name)}),
        conversions=[
            layer.name
            for layer in layers
            if layer.names and all(parse_name(name).converts for name in layer.names)
        ],
    )


def count_kinds(layers: Iterable[Layer]) -> Counter[str]:
    """How many kernels there are of each kind; INT8 and FP8 ones apart."""
    return Counter(f"{layer.kind} {layer.codes}".strip() for layer in layers)


NOT_KERNELS = {"Const", "Input", "Output", "Reshape", "ShapeOf"}
OPENVINO_COMPUTE = {"Convolution", "FullyConnected", "MatMul"}


def openvino_layers(compiled: Any, part: str = "") -> tuple[list[Layer], Counter[str]]:
    """Layers of a compiled OpenVINO model from its runtime graph; constants and inputs are left out.

    A kernel bears the names of the nodes in it, and of the site of `part` whose weights it reads: what follows a
    product may have taken its name.
    """
    layers = []
    for operation in compiled.get_runtime_model().get_ops():
        info = {key: _text(value) for key, value in operation.get_rt_info().items()}
        kind = info["layerType"]
        if kind in NOT_KERNELS:
            continue
        primitive = info.get("primitiveType", "")
        # a transformation that moves a node's scale leaves `SITE/DequantizationMultiply` as its origin
        names = tuple(owner_of(name) for name in info.get("originalLayersNames", "").split(","))
        computes = kind in OPENVINO_COMPUTE
        if computes:
            names += _site_of(operation, part)
        codes = INT8.layer_type if computes and primitive.lower().endswith("i8") else ""
        title = f"{kind} {primitive}"
        layers.append(Layer(operation.get_friendly_name(), title, codes, names, attention=fuse_attention(names)))
    return layers, Counter(layer.kind for layer in layers)


def _site_of(operation: Any, part: str) -> tuple[str, ...]:
    """The site whose weights come in second, as they are or through one operation (a transposition)."""
    inputs = operation.inputs()
    if len(inputs) < 2:
        return ()
    source = inputs[1].get_source_output().get_node()
    site = site_of_weight(part, source.get_friendly_name())
    if site is None and source.inputs():
        site = site_of_weight(part, source.input(0).get_source_output().get_node().get_friendly_name())
    return () if site is None else (site,)


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)
