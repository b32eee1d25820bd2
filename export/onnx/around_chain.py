"""What a single file has around the chain: from the low-resolution picture to its sources, and on to the picture.

In ONNX's text form; `chain_NAME` are the chain's own tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import parser
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.wiring import (
    ADAIN_EPSILON,
    WAVELET_LEVELS,
    TensorInfo,
    chain_multiple,
    is_noise,
)
from passionsr_trt.export.onnx.bicubic import enlargement

SIDES = """
    lr_sides = Shape<start=2, end=4>(lr)
    sides = Mul(lr_sides, scale)
"""
MISSING = """
    up = Add(sides, multiple_less_1)
    count = Div(up, multiple)
    full = Mul(count, multiple)
    missing = Sub(full, sides)
"""


def of_chain(tensor: str) -> str:
    """The name of a chain's tensor in the file; noise is an input of it under its own."""
    return tensor if is_noise(tensor) else f"chain_{tensor}"


def before(
    bundle: OnnxBundle, sources: Mapping[str, TensorInfo], align: str
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """lr → the parts' sources, `sides` of the picture, and `enlarged` where a part or the colours need it.

    With constants of their own.
    """
    padded = bundle.model.size is None
    text = SIDES + (MISSING if padded else "") + "    by255 = Mul(lr, c255)\n"
    constants: dict[str, np.ndarray] = {}
    if "image" in sources or align != "none":
        larger = "    enlarged8 = Identity(pixels)\n"
        if bundle.model.upscale > 1:
            larger, constants = enlargement("pixels", "enlarged8", bundle.model.upscale)
        text += f"    pixels = Round(by255)\n{larger}"
        text += "    enlarged2 = Div(enlarged8, c127)\n    enlarged = Add(enlarged2, c_1)\n"
    if "image" in sources:
        text += _mirrored("enlarged", "missing", of_chain("image"), padded)
    if "lr" in sources:
        text += "    lr2 = Div(by255, c127)\n    lr_centred = Add(lr2, c_1)\n"
        text += "    lr_missing = Div(missing, scale)\n" if padded else ""
        text += _mirrored("lr_centred", "lr_missing", of_chain("lr"), padded)
    return parsed(text), constants


def _mirrored(name: str, missing: str, result: str, padded: bool) -> str:
    if not padded:
        return f"    {result} = Identity({name})\n"
    return (
        f"    {result}_pads = Concat<axis=0>(no_pads, {missing})\n"
        f'    {result} = Pad<mode="reflect">({name}, {result}_pads)\n'
    )


def after(output: str, align: str) -> list[onnx.NodeProto]:
    text = f"""
    cropped = Slice({output}, origin, sides, axes)
    clamped = Clip(cropped, c_1, c1)
"""
    text += {"none": lambda: "    aligned = Identity(clamped)\n", "adain": _adain, "wavelet": _wavelet}[align]()
    text += """
    halved = Mul(aligned, half)
    lifted = Add(halved, half)
    picture = Clip(lifted, c0, c1)
"""
    return parsed(text)


def _adain() -> str:
    """runtime/core/colour.py:adain."""
    text = ""
    for name, result in (("clamped", "own"), ("enlarged", "wanted")):
        text += f"""
    {result}_mean = ReduceMean<keepdims=1>({name}, axes)
    {result}_centred = Sub({name}, {result}_mean)
    {result}_squared = Mul({result}_centred, {result}_centred)
    {result}_variance = ReduceMean<keepdims=1>({result}_squared, axes)
    {result}_deviation = Sqrt({result}_variance)
"""
    return f"""{text}
    above = Add(own_deviation, epsilon)
    gain = Div(wanted_deviation, above)
    gained = Mul(own_centred, gain)
    aligned = Add(gained, wanted_mean)
"""


def _wavelet() -> str:
    """runtime/core/colour.py:wavelet."""
    text = _low_pass("clamped", "low") + _low_pass("enlarged", "wanted_low")
    return text + "    high = Sub(clamped, low)\n    aligned = Add(high, wanted_low)\n"


def _low_pass(name: str, result: str) -> str:
    """runtime/core/colour.py:low_pass: [1 2 1]/4 along rows and columns, the step doubling, edges replicated."""
    text, x = "", name
    for level in range(WAVELET_LEVELS):
        for axis, dilations in (("rows", [2**level, 1]), ("columns", [1, 2**level])):
            y = result if (level, axis) == (WAVELET_LEVELS - 1, "columns") else f"{result}_{axis}{level}"
            text += f'    {y}_edge = Pad<mode="edge">({x}, pads_{axis}{level})\n'
            text += f"    {y} = Conv<group=3, dilations={dilations}>({y}_edge, blur_{axis})\n"
            x = y
    return text


def parsed(text: str) -> list[onnx.NodeProto]:
    """Nodes from ONNX's text form, each called by what it gives."""
    graph = parser.parse_graph(f"g (float x) => (float y) {{\n{text}\n}}")
    for node in graph.node:
        node.name = node.output[0]
    return list(graph.node)


def numbers(bundle: OnnxBundle) -> dict[str, np.ndarray]:
    multiple = chain_multiple(bundle.parts)
    floats = {"c0": 0, "c1": 1, "c127": 127.5, "c_1": -1, "c255": 255, "half": 0.5, "epsilon": ADAIN_EPSILON}
    return {
        **{name: np.array(value, np.float32) for name, value in floats.items()},
        "multiple": np.array([multiple], np.int64),
        "multiple_less_1": np.array([multiple - 1], np.int64),
        "scale": np.array([bundle.model.upscale], np.int64),
        "axes": np.array([2, 3], np.int64),
        "origin": np.zeros(2, np.int64),
        "no_pads": np.zeros(6, np.int64),
        "blur_rows": np.tile(np.array([0.25, 0.5, 0.25], np.float32).reshape(1, 1, 3, 1), (3, 1, 1, 1)),
        "blur_columns": np.tile(np.array([0.25, 0.5, 0.25], np.float32).reshape(1, 1, 1, 3), (3, 1, 1, 1)),
        **{f"pads_rows{n}": np.array([0, 0, 2**n, 0, 0, 0, 2**n, 0]) for n in range(WAVELET_LEVELS)},
        **{f"pads_columns{n}": np.array([0, 0, 0, 2**n, 0, 0, 0, 2**n]) for n in range(WAVELET_LEVELS)},
    }
