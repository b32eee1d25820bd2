"""The drawing of a chain's drift: two lines, all points within it, no line of one part."""

from __future__ import annotations

import math
import xml.etree.ElementTree as Xml
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from passionsr_trt.runtime.apps.drift_plot import MOST, drift_plot
from passionsr_trt.runtime.apps.html_report import write_drift

DECIBELS = st.floats(-30, 400)


def parts(own: list[float], chain: list[float]) -> dict[str, dict[str, float]]:
    return {f"unet_{n}": {"snr": a, "snr_in_chain": b} for n, (a, b) in enumerate(zip(own, chain, strict=True))}


@given(st.lists(st.tuples(DECIBELS, DECIBELS), min_size=2, max_size=60))
def test_every_point_stands_within_and_higher_is_nearer_to_float(rows: list[tuple[float, float]]) -> None:
    plot = drift_plot(parts([a for a, _ in rows], [b for _, b in rows]))
    assert plot is not None and len(plot.names) == len(rows) and 2 <= len(plot.ticks) <= 20
    for line, values in zip(plot.lines, zip(*rows, strict=True), strict=True):
        assert list(line.values) == [min(value, MOST) for value in values]
        assert all(plot.left <= x <= plot.right and plot.top <= y <= plot.axis + 1e-6 for x, y in line.points)
        heights = {value: y for value, (_x, y) in zip(line.values, line.points, strict=True)}
        ordered = [heights[value] for value in sorted(heights)]
        assert ordered == sorted(ordered, reverse=True)


def test_one_part_and_none_do_not_drift() -> None:
    assert drift_plot({}) is None and drift_plot(parts([40.0], [40.0])) is None


def test_what_is_equal_is_at_the_top_and_the_file_is_well_formed(tmp_path: Path) -> None:
    plot = drift_plot(parts([math.inf, 30.0, 12.5], [math.inf, 28.0, -3.0]))
    assert plot is not None and plot.lines[0].points[0][1] == plot.top
    assert plot.lines[1].points[2][1] == pytest.approx(plot.axis - 17 / 20 * (plot.ticks[0][1] - plot.ticks[1][1]))
    write_drift(tmp_path / "drift.svg", plot, "INT8")
    root = Xml.parse(tmp_path / "drift.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert next(found.text for found in root.iter(f"{space}title")) == "SNR of INT8 to float, part by part"
    assert len(list(root.iter(f"{space}polyline"))) == 2 and len(list(root.iter(f"{space}circle"))) == 6
    said = "".join(root.itertext())
    assert all(words in said for words in ("unet_2", "in its chain", "unet_1, fed by the float chain: 30.0 dB"))
