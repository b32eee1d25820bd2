"""compare --html and benchmark --html: one file that opens anywhere, without a network.

The templates lie in templates/; styles, script and pictures are inside the file. The page forbids itself every
address but `data:`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from passionsr_trt.engines.bundle.records import read_object
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.writing import check_writable, write_atomic
from passionsr_trt.runtime.apps.drift_plot import Plot, drift_plot
from passionsr_trt.runtime.apps.report_pictures import View

MOST_VIEWS = 24  # pictures under sliders, the worst ones; the table has all
MOST_CROPS = 12
MOST_PORTS = 12  # that clip
DRIFT = "SNR of {tested} to float, part by part"
GROUPS = {
    "to_float": "to float",
    "float_to_truth": "float to original",
    "tested_to_truth": "{tested} to original",
    "bicubic_to_truth": "bicubic to original",
}


def check_report(path: Path) -> None:
    """Fail before the work where the report cannot be written."""
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UsageError(f"--html {path}", "expected a file name ending in .html")
    check_writable(path.parent)


def stated(conditions: Mapping[str, Any], command: str) -> dict[str, str]:
    """Conditions as a reader sees them, the versions one by one, and the command."""
    plain = {name.replace("_", " "): str(value) for name, value in conditions.items() if name != "versions"}
    found = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return {**plain, "versions": found, "command": command}


def worst_pictures(views: Sequence[View]) -> list[View]:
    """Those that get a slider, by PSNR to the float picture."""
    return sorted(views, key=lambda view: view.figures["to_float"]["psnr"])[:MOST_VIEWS]


def worst_squares(views: Sequence[View]) -> list[View]:
    """Those whose worst square is shown, the worst first."""
    return sorted(views, key=lambda view: view.crop_psnr)[:MOST_CROPS]


def kept(views: Sequence[View]) -> list[View]:
    """What a report will show of many pictures: the rest need not be held."""
    shown = {id(view) for view in (*worst_pictures(views), *worst_squares(views))}
    return [view for view in views if id(view) in shown]


def clipping_ports(clipped: Mapping[str, Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """The ports that clip most, by the worst kind of pictures, and the share of each kind."""
    ports = next(iter(clipped.values()), {})
    rows = [(port, [shares[port] for shares in clipped.values()]) for port in ports]
    return sorted((row for row in rows if max(row[1]) > 0), key=lambda row: -max(row[1]))[:MOST_PORTS]


def read_sensitivity(path: Path) -> dict[str, Any]:
    """What `passionsr-trt sensitivity` wrote; UserError for anything else. `clipped` is None in older files."""
    expected = "the sensitivity.json of `passionsr-trt sensitivity`"
    try:
        found = read_object(path, expected)
        ports = [
            {
                "port": str(port["port"]),
                "sites": [str(site) for site in port["sites"]],
                **{name: float(port[name]) for name in ("macs_share", "psnr_alone", "gain_if_float")},
                "clipped": float(port["clipped"]) if "clipped" in port else None,
            }
            for port in found["ports"]
        ]
        return {"psnr": float(found["psnr"]), "ports": ports}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", f"expected {expected}") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: lists no sites", f"expected {expected}") from None


def write_comparison(
    path: Path,
    report: Mapping[str, Any],
    views: Sequence[View],
    conditions: Mapping[str, str],
    sensitivity: Mapping[str, Any] | None = None,
) -> None:
    """report: comparison.json's; views: of the pictures to be shown."""
    tested = report["tested"].split()[-1]
    rows = sorted(report["images"].items(), key=lambda item: item[1]["to_float"]["psnr"])
    groups = {key: text.format(tested=tested) for key, text in GROUPS.items() if key in report["mean"]}
    _write(
        path,
        "comparison.html",
        report=report,
        tested=tested,
        rows=rows,
        groups=groups,
        views=worst_pictures(views),
        crops=worst_squares(views),
        clipping=clipping_ports(report["clipped"]),
        plot=drift_plot(report["parts"]),
        title=DRIFT.format(tested=tested),
        sensitivity=sensitivity,
        conditions=conditions,
    )


def write_drift(path: Path, plot: Plot, tested: str) -> None:
    """The plot as a file of its own."""
    _write(path, "drift.svg", plot=plot, title=DRIFT.format(tested=tested))


def write_benchmark(path: Path, report: Mapping[str, Any], conditions: Mapping[str, str]) -> None:
    """report: benchmark.json's."""
    *parts, chain = report["speedup_over_fastest_parts"]
    longest = max(figures[chain]["p90"] for figures in report["seconds"].values())
    _write(
        path,
        "benchmark.html",
        report=report,
        parts_of_chain=parts,
        chain=chain,
        longest=longest,
        conditions=conditions,
    )


def _write(path: Path, template: str, **values: Any) -> None:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["figure"] = figure
    made = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, templates.get_template(template).render(made=made, **values).encode())
    path.chmod(0o644)  # it is there to be sent


def figure(value: float, digits: int = 2) -> str:
    """`42.31`; what is endless (the PSNR of equal pictures) is `equal`."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "equal"
