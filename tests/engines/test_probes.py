"""The speed probe: figures for both kinds of layer, and layers that are INT8 where they should be."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from passionsr_trt.engines.openvino.probes import LAYERS, int8_speed, layer_model


def test_the_probe_gives_a_figure_for_each_kind() -> None:
    found = int8_speed()
    assert set(found) == {"convolution", "linear"}
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in found.values())


@pytest.mark.parametrize("kind", LAYERS)
def test_both_layers_compute_the_same(kind: str) -> None:
    x = np.random.default_rng(1).uniform(-1, 1, LAYERS[kind][0]).astype(np.float32)
    models = [layer_model(kind, int8) for int8 in (False, True)]
    for model in models:
        onnx.checker.check_model(onnx.load_from_string(model))
    sessions = [onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]) for model in models]
    expected, found = (session.run(None, {"x": x})[0] for session in sessions)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.05
