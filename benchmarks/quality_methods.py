"""What quality.py compares: our specs by name, and the other tools' methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """One row. `peer` names a method of peer_worker.py; else `spec` overrides QuantSpec's defaults."""

    name: str
    group: str
    spec: dict[str, Any] = field(default_factory=dict)
    peer: str = ""
    seeded: bool = False
    bits: tuple[int, ...] = (8, 6)


def methods(ours: dict[str, Any]) -> list[Method]:
    """Every row; `ours` is the learned spec that the ablations take away from."""
    range_based = {"method": "range"}
    return [
        Method("ours", "ours", ours, seeded=True),
        Method("minmax", "baseline", {**range_based, "activation_observer": "minmax"}),
        Method("percentile", "baseline", {**range_based, "activation_observer": "percentile"}),
        Method("DOBI", "baseline", {**range_based, "activation_observer": "dobi"}),
        Method("SmoothQuant", "baseline", {"method": "smoothquant", "rounding": "nearest"}),
        Method("ORT MinMax", "tool", peer="ort-minmax", bits=(8,)),
        Method("ORT Percentile", "tool", peer="ort-percentile", bits=(8,)),
        Method("ORT Entropy", "tool", peer="ort-entropy", bits=(8,)),
        Method("ModelOpt max", "tool", peer="modelopt-max", bits=(8,)),
        Method("ModelOpt entropy", "tool", peer="modelopt-entropy", bits=(8,)),
        Method("NNCF", "tool", peer="nncf", bits=(8,)),
        Method("NNCF SmoothQuant", "tool", peer="nncf-smoothquant", bits=(8,)),
        Method("NNCF SmoothQuant, unsigned", "not for TensorRT", peer="nncf-smoothquant-unsigned", bits=(8,)),
        Method("LBQ only", "ablation", {**ours, "let_scale": False, "shift": "none"}, bits=(8,)),
        Method("LET only", "ablation", {**ours, "lbq_steps": 0}, bits=(8,)),
        Method("no shifts", "ablation", {**ours, "shift": "none"}, bits=(8,)),
        Method("LET at any cost", "ablation", {**ours, "explicit_gain": 0.0}, bits=(8,)),
        Method("nearest rounding", "ablation", {**ours, "rounding": "nearest"}, bits=(8,)),
        Method("staged", "ablation", {**ours, "staged": True}, bits=(8,)),
        Method("no output biases", "ablation", {**ours, "output_bias": False}, bits=(8,)),
        Method("search alone", "ablation", {**ours, "method": "search"}, bits=(8,)),
        Method(
            "published rates",
            "ablation",
            {**ours, "learning_rate": 1e-5, "let_steps": 64, "lbq_steps": 64},
            bits=(8,),
        ),
    ]
