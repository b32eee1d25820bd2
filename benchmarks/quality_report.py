"""Rows of quality.py → a table in Markdown and a plot."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.pictures.drawn_set import EXTREME
from quality_methods import WIDTHS

SMALLER_IS_CLOSER = ("lpips", "dists")
COLOURS = {
    "ours": "#d62728",
    "baseline": "#7f7f7f",
    "tool": "#1f77b4",
    "not for TensorRT": "#aec7e8",
    "ablation": "#ff9896",
}


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One method at one width over its seeds: means over images and seeds, the worst image of any seed."""
    summary: dict[str, Any] = {key: rows[0][key] for key in ("name", "group", "width", "bytes")}
    summary["seeds"] = len(rows)
    summary["seconds_to_quantize"] = float(np.median([row["seconds_to_quantize"] for row in rows]))
    timed = [row["latency"] for row in rows if "latency" in row]
    if timed:
        summary["latency"] = timed[0]
    for target in ("to_float", "to_truth", "float_to_truth"):
        metrics = next(iter(rows[0]["images"].values()))[target]
        for metric in metrics:
            values = np.array([[image[target][metric] for image in row["images"].values()] for row in rows])
            summary[f"{target}_{metric}"] = float(values.mean())
            worst = values.max() if metric in SMALLER_IS_CLOSER else values.min()
            summary[f"{target}_{metric}_worst"] = float(worst)
            if metric == "psnr":
                summary[f"{target}_psnr_spread"] = float(values.mean(axis=1).max() - values.mean(axis=1).min())
    for kind, chosen in (("drawn", False), ("extreme", True)):
        drawn = [v["psnr"] for row in rows for name, v in row["drawn"].items() if (name in EXTREME) is chosen]
        summary[f"{kind}_psnr"], summary[f"{kind}_psnr_worst"] = float(np.mean(drawn)), min(drawn)
    return summary


def write_report(folder: Path, conditions: dict[str, Any]) -> None:
    """quality.json, quality.md, quality.png from all rows in FOLDER/rows."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((folder / "rows").glob("*.json")):
        row = json.loads(path.read_text())
        found[row["width"], row["name"]].append(row)
    summaries = sorted(
        (summarize(rows) for rows in found.values()),
        key=lambda row: (list(WIDTHS).index(row["width"]), -row["to_float_psnr"]),
    )
    (folder / "quality.json").write_text(
        json.dumps({"conditions": conditions, "rows": summaries}, indent=1) + "\n"
    )
    text = table(summaries)
    (folder / "quality.md").write_text(text)
    draw(summaries, folder / "quality.png")
    print(text)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: distance to the float output, then to the originals, then what it costs."""
    dists = all("to_float_dists" in row for row in rows)
    head = ["width", "method", "PSNR dB (worst)", "drawn", "extreme", "SSIM", "LPIPS (worst)"]
    head += ["DISTS"] if dists else []
    head += ["ΔPSNR to truth", "LPIPS to truth"] + (["DISTS to truth"] if dists else [])
    head += ["speed-up", "MB", "s to quantize"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        change = row["to_truth_lpips"] / row["float_to_truth_lpips"] - 1
        spread = f" ±{row['to_float_psnr_spread'] / 2:.2f}" if row["seeds"] > 1 else ""
        cells = [
            row["width"],
            f"**{row['name']}**" if row["group"] == "ours" else row["name"],
            f"{row['to_float_psnr']:.2f}{spread} ({row['to_float_psnr_worst']:.2f})",
            *(f"{row[f'{kind}_psnr']:.1f} ({row[f'{kind}_psnr_worst']:.1f})" for kind in ("drawn", "extreme")),
            f"{row['to_float_ssim']:.4f}",
            f"{row['to_float_lpips']:.4f} ({row['to_float_lpips_worst']:.4f})",
        ]
        cells += [f"{row['to_float_dists']:.4f}"] if dists else []
        cells.append(f"{row['to_truth_psnr'] - row['float_to_truth_psnr']:+.3f}")
        cells.append(f"{row['to_truth_lpips']:.4f} ({change:+.1%})")
        cells += [f"{row['to_truth_dists']:.4f}"] if dists else []
        cells.append(f"{row['latency']['speedup']:.2f}×" if "latency" in row else "")
        cells += [f"{row['bytes'] / 1e6:.1f}", f"{row['seconds_to_quantize']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A line a method, from its worst image to its mean: PSNR to the float output."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    widths = [width for width in WIDTHS if any(row["width"] == width for row in rows)]
    counts = [sum(row["width"] == width for row in rows) for width in widths]
    figure, grid = pyplot.subplots(
        len(widths), 1, figsize=(8, 0.9 * len(widths) + 0.27 * len(rows)), height_ratios=counts, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, width in zip(grid[:, 0], widths, strict=True):
        shown = [row for row in rows if row["width"] == width]
        names = [row["name"] for row in shown]
        values = [row["to_float_psnr"] for row in shown]
        worst = [row["to_float_psnr_worst"] for row in shown]
        colours = [COLOURS[row["group"]] for row in shown]
        axes.hlines(names, worst, values, color=colours, linewidth=2)
        axes.scatter(worst, names, color=colours, marker="|", s=60)
        axes.scatter(values, names, color=colours, s=45)
        for name, value in zip(names, values, strict=True):
            axes.text(value + 0.3, name, f"{value:.1f}", va="center", fontsize=8)
        axes.set_xlim(min(worst) - 1, max(values) + 2)
        axes.margins(y=0.6 / len(shown))
        axes.grid(axis="x", alpha=0.3)
        axes.invert_yaxis()
        axes.set_title(f"{width}: PSNR to the float output, dB (dot: mean, tick: worst image)", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[group]) for group in COLOURS]
    figure.legend(
        handles, list(COLOURS), loc="outside lower center", ncols=len(COLOURS), frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
