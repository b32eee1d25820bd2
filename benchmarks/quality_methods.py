"""What quality.py compares: our specs by name, and the other tools' methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# what a spec says for each width; `-63`: weight codes within ±63, for CPUs without VNNI
WIDTHS: dict[str, dict[str, int]] = {
    "W8A8": {},
    "W8A8-63": {"weight_code_limit": 63},
    "W6A6": {"bits_weights": 6, "bits_activations": 6},
    "W4A8": {"bits_weights": 4},
}
FULL = ("W8A8",)
PUBLISHED = {"learning_rate": 1e-5, "let_steps": 64, "lbq_steps": 64}


@dataclass(frozen=True)
class Method:
    """One row a width. `peer` names a method of peer_worker.py; else `spec` overrides QuantSpec's defaults.

    drawn: the other tool is given the pictures that our calibration draws, beside the photos.
    """

    name: str
    group: str
    spec: dict[str, Any] = field(default_factory=dict)
    peer: str = ""
    drawn: bool = False
    seeded: bool = False
    widths: tuple[str, ...] = ("W8A8", "W6A6")


def methods(ours: dict[str, Any]) -> list[Method]:
    """Every row; `ours` is the learned spec. The ablations take away from it with LBQ learned as well."""
    both = {**ours, "lbq_steps": 48}  # LET, then LBQ
    return [
        Method("ours", "ours", ours, seeded=True, widths=tuple(WIDTHS)),
        Method("ours, photos", "ours", {**ours, "pictures": "photos"}, widths=FULL),
        Method("ours, any", "ours", {**ours, "pictures": "any"}, widths=FULL),
        Method("minmax", "baseline", {"method": "range", "activation_observer": "minmax"}),
        Method("percentile", "baseline", {"method": "range", "activation_observer": "percentile"}),
        Method("DOBI", "baseline", {"method": "range", "activation_observer": "dobi"}),
        Method("SmoothQuant", "baseline", {"method": "smoothquant", "rounding": "nearest"}),
        Method("ORT MinMax", "tool", peer="ort-minmax", widths=FULL),
        Method("ORT Percentile", "tool", peer="ort-percentile", widths=FULL),
        Method("ORT Entropy", "tool", peer="ort-entropy", widths=FULL),
        Method("ModelOpt max", "tool", peer="modelopt-max", widths=FULL),
        Method("ModelOpt entropy", "tool", peer="modelopt-entropy", widths=FULL),
        Method("NNCF", "tool", peer="nncf", widths=FULL),
        Method("NNCF, drawn too", "tool", peer="nncf", drawn=True, widths=FULL),
        Method("ORT MinMax, drawn too", "tool", peer="ort-minmax", drawn=True, widths=FULL),
        Method("ORT Entropy, drawn too", "tool", peer="ort-entropy", drawn=True, widths=FULL),
        Method("NNCF SmoothQuant", "tool", peer="nncf-smoothquant", widths=FULL),
        Method("NNCF SmoothQuant, unsigned", "not for TensorRT", peer="nncf-smoothquant-unsigned", widths=FULL),
        Method("search alone", "ablation", {**ours, "method": "search"}, widths=FULL),
        Method("LBQ too", "ablation", both, widths=FULL),
        Method("LET at any cost", "ablation", {**both, "unabsorbed_gain": 0.0}, widths=FULL),
        Method("nearest rounding", "ablation", {**both, "rounding": "nearest"}, widths=FULL),
        Method("no bias correction", "ablation", {**both, "correction_steps": 0}, widths=FULL),
        Method("published rates", "ablation", {**both, **PUBLISHED}, widths=FULL),
    ]
