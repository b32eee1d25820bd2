"""How far a chain drifts from the float one, part by part, as a drawing: SVG, in a report and as a file.

Two lines of SNR to the float chain's tensors, in dB: each part fed the float chain's own tensors, what the part
itself loses; and each part in its place, behind all that is under test, what the chain has lost so far. In a
sampler of several steps the second is the trajectory's drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WIDTH, LEFT, RIGHT, TOP, ROOM = 720, 44, 12, 28, 210  # ROOM: from TOP to the axis
NAMES = 96  # under the axis, for the parts' names
MOST = 120.0  # dB: beyond it tensors are equal
TICK = 10  # dB, or more, where there would be too many
LINES = {"snr": "fed by the float chain", "snr_in_chain": "in its chain"}
Place = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """label: what it shows; values: in dB, a part each; points: where they stand."""

    label: str
    values: tuple[float, ...]
    points: tuple[Place, ...]


@dataclass(frozen=True)
class Plot:
    """names: of parts and their places along the axis. ticks: dB and their heights."""

    names: tuple[tuple[str, float], ...]
    ticks: tuple[tuple[int, float], ...]
    lines: tuple[Line, ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    axis: int = TOP + ROOM
    height: int = TOP + ROOM + NAMES


def drift_plot(parts: Mapping[str, Mapping[str, float]]) -> Plot | None:
    """Of comparison.json's `parts`; None where there are none, or one, which cannot drift."""
    if len(parts) < 2:
        return None
    shown = {name: [min(found[name], MOST) for found in parts.values()] for name in LINES}
    least, most = (pick(value for values in shown.values() for value in values) for pick in (min, max))
    tick = TICK * (1 + int(most - min(least, 0)) // (10 * TICK))
    low, high = tick * min(int(least // tick), 0), tick * max(-int(-most // tick), 1)
    scale, apart = ROOM / (high - low), (WIDTH - LEFT - RIGHT) / len(parts)
    across = [LEFT + apart * (index + 0.5) for index in range(len(parts))]

    def up(value: float) -> float:
        return TOP + (high - value) * scale

    return Plot(
        tuple(zip(parts, across, strict=True)),
        tuple((value, up(value)) for value in range(low, high + 1, tick)),
        tuple(
            Line(label, tuple(shown[name]), tuple(zip(across, map(up, shown[name]), strict=True)))
            for name, label in LINES.items()
        ),
    )
