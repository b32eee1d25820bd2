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
    """One row a width. `peer` names a method of peer_worker.py; else `spec` overrides QuantSpec's defaults."""

    name: str
    group: str
    spec: dict[str, Any] = field(default_factory=dict)
    peer: str = ""
    seeded: bool = False
    widths: tuple[str, ...] = ("W8A8", "W6A6")


def methods(ours: dict[str, Any]) -> list[Method]:
    """Every row; `ours` is the learned spec. The ablations take away from it with LBQ learned as well."""
    range_based = {"method": "range"}
    both = {**ours, "lbq_steps": 48}  # LET, then LBQ
    return [
        Method("ours", "ours", ours, seeded=True, widths=tuple(WIDTHS)),
        Method("minmax", "baseline", {**range_based, "activation_observer": "minmax"}),
        Method("percentile", "baseline", {**range_based, "activation_observer": "percentile"}),
        Method("DOBI", "baseline", {**range_based, "activation_observer": "dobi"}),
        Method("SmoothQuant", "baseline", {"method": "smoothquant", "rounding": "nearest"}),
        Method("ORT MinMax", "tool", peer="ort-minmax", widths=FULL),
        Method("ORT Percentile", "tool", peer="ort-percentile", widths=FULL),
        Method("ORT Entropy", "tool", peer="ort-entropy", widths=FULL),
        Method("ModelOpt max", "tool", peer="modelopt-max", widths=FULL),
        Method("ModelOpt entropy", "tool", peer="modelopt-entropy", widths=FULL),
        Method("NNCF", "tool", peer="nncf", widths=FULL),
        Method("NNCF SmoothQuant", "tool", peer="nncf-smoothquant", widths=FULL),
        Method("NNCF SmoothQuant, unsigned", "not for TensorRT", peer="nncf-smoothquant-unsigned", widths=FULL),
        Method("search alone", "ablation", {**ours, "method": "search"}, widths=FULL),
        Method("LBQ too", "ablation", both, widths=FULL),
        Method("LET at any cost", "ablation", {**both, "unabsorbed_gain": 0.0}, widths=FULL),
        Method("nearest rounding", "ablation", {**both, "rounding": "nearest"}, widths=FULL),
        Method("no bias correction", "ablation", {**both, "correction_steps": 0}, widths=FULL),
        Method("published rates", "ablation", {**both, **PUBLISHED}, widths=FULL),
    ]
