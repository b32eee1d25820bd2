"""Pillow's bicubic enlargement of an 8-bit picture as ONNX nodes, equal to it code for code.

Pillow weighs up to four pixels of a row, then of a column, with coefficients of 22 fractional bits, and rounds
halves up to 8 bits each time; at the borders what lies outside is left out and the rest is normalised. A quantized
network carries one wrong code on, so these nodes compute the same integers. With every coefficient split in two,
c = high·2¹¹ + low, all numbers are whole and below 2²⁴, which float32 holds:

    round(Σ c·x / 2²²) = floor((Σ high·x + floor((Σ low·x + 2²¹) / 2¹¹)) / 2¹¹)

Away from the borders the coefficients repeat with every pixel: a convolution gives the `scale` phases of each.
"""

from __future__ import annotations

import numpy as np

BITS, HALF = 22, 11
SUPPORT, TAPS = 2, 5  # pixels to either side; of a convolution that holds every phase's four
EDGE = 4  # pixels that the outermost 2·scale results read
A = -0.5


def _weight(x: float) -> float:
    x = abs(x)
    if x < 1:
        return ((A + 2) * x - (A + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * A if x < 2 else 0.0


def coefficients(size: int, scale: int) -> np.ndarray:
    """[size, size·scale] whole numbers: what of each pixel goes into each result, times 2²²."""
    table = np.zeros((size, size * scale))
    for result in range(size * scale):
        centre = (result + 0.5) / scale
        first, last = max(int(centre - SUPPORT + 0.5), 0), min(int(centre + SUPPORT + 0.5), size)
        weights = np.array([_weight(pixel - centre + 0.5) for pixel in range(first, last)])
        scaled = weights / weights.sum() * 2**BITS
        table[first:last, result] = np.trunc(scaled + np.copysign(0.5, scaled))
    return table


def enlargement(source: str, result: str, scale: int) -> tuple[str, dict[str, np.ndarray]]:
    """Nodes in ONNX's text form, `source` [N, 3, h, w] of whole numbers to 255 → `result`, and their constants.

    Sides of at least 4 pixels.
    """
    text = _rows(source, "enlarged_rows") + "    turned = Transpose<perm=[0, 1, 3, 2]>(enlarged_rows)\n"
    text += _rows("turned", "enlarged_columns")
    text += f"    {result} = Transpose<perm=[0, 1, 3, 2]>(enlarged_columns)\n"
    table = coefficients(2 * EDGE, scale)
    inner = table[
        SUPPORT : SUPPORT + TAPS, EDGE * scale : (EDGE + 1) * scale
    ]  # of the pixel in the middle of them
    kernel = np.tile(inner.T.reshape(scale, 1, 1, TAPS), (3, 1, 1, 1))
    split = {"inner": kernel, "left": table[:EDGE, : 2 * scale], "right": table[-EDGE:, -2 * scale :]}
    constants: dict[str, np.ndarray] = {}
    for name, whole in split.items():
        high = np.floor(whole / 2**HALF)
        constants[f"{name}_high"] = high.astype(np.float32)
        constants[f"{name}_low"] = (whole - high * 2**HALF).astype(np.float32)
    edge = 2 * scale
    numbers = {
        "edge": edge,
        "minus_edge": -edge,
        "four": EDGE,
        "minus_four": -EDGE,
        "at_0": 0,
        "far": 2**62,
        "at_3": 3,
    }
    constants |= {name: np.array([value], np.int64) for name, value in numbers.items()}
    constants |= {
        "phases": np.array([0, 3, scale, -1], np.int64),
        "batch_and_colours": np.array([0, 3], np.int64),
        "rest": np.array([-1], np.int64),
    }
    wholes = {"half_22": 2 ** (BITS - 1), "power_11": 2**HALF, "lowest": 0, "highest": 255}
    constants |= {name: np.array(value, np.float32) for name, value in wholes.items()}
    return text, constants


def _rows(source: str, result: str) -> str:
    """Along the last axis: the inside by phases, the two borders by products, rounded together."""
    text = f"""
    {result}_height = Shape<start=2, end=3>({source})
    {result}_shape = Concat<axis=0>(batch_and_colours, {result}_height, rest)
    {result}_first = Slice({source}, at_0, four, at_3)
    {result}_last = Slice({source}, minus_four, far, at_3)
"""
    for half in ("high", "low"):
        name = f"{result}_{half}"
        text += f"""
    {name}_phases = Conv<group=3, pads=[0, {SUPPORT}, 0, {SUPPORT}]>({source}, inner_{half})
    {name}_apart = Reshape({name}_phases, phases)
    {name}_beside = Transpose<perm=[0, 1, 3, 2]>({name}_apart)
    {name}_line = Reshape({name}_beside, {result}_shape)
    {name}_inside = Slice({name}_line, edge, minus_edge, at_3)
    {name}_left = MatMul({result}_first, left_{half})
    {name}_right = MatMul({result}_last, right_{half})
    {name}_sum = Concat<axis=3>({name}_left, {name}_inside, {name}_right)
"""
    return f"""{text}
    {result}_lifted = Add({result}_low_sum, half_22)
    {result}_low_shifted = Div({result}_lifted, power_11)
    {result}_carried = Floor({result}_low_shifted)
    {result}_total = Add({result}_high_sum, {result}_carried)
    {result}_shifted = Div({result}_total, power_11)
    {result}_whole = Floor({result}_shifted)
    {result} = Clip({result}_whole, lowest, highest)
"""
