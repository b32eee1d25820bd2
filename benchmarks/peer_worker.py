"""One part quantized by another tool: float ONNX + calibration tensors → QDQ ONNX. Run by quality.py.

    PEERS_PYTHON benchmarks/peer_worker.py METHOD FLOAT.onnx TENSORS.npz SITES.json OUT.onnx

METHOD: ort-minmax, ort-entropy, ort-percentile, modelopt-max, modelopt-entropy, nncf, nncf-smoothquant,
nncf-smoothquant-unsigned (the one that breaks a rule: unsigned codes, which TensorRT has not).
Every tool gets the same rules, ours: only the named sites, INT8, symmetric, activations per tensor and signed,
weights per output channel, biases float, no quantized outputs. Everything else is the tool's default.
It needs only the tool: `pip install torch==2.13.0 nncf nvidia-modelopt[onnx]`, best in an environment of their
own, because ModelOpt brings another ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

METHODS = (
    "ort-minmax",
    "ort-percentile",
    "ort-entropy",
    "modelopt-max",
    "modelopt-entropy",
    "nncf",
    "nncf-smoothquant",
    "nncf-smoothquant-unsigned",
)


class Reader:
    """ONNX Runtime's CalibrationDataReader, by its protocol: one feed at a time."""

    def __init__(self, name: str, tensors: list[np.ndarray]) -> None:
        self.feeds = [{name: tensor} for tensor in tensors]
        self.set_range(0, len(self.feeds))

    def set_range(self, start_index: int, end_index: int) -> None:
        self.pending = iter(self.feeds[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.pending, None)

    def get_first(self) -> dict[str, np.ndarray]:
        return self.feeds[0]

    def rewind(self) -> None:
        self.set_range(0, len(self.feeds))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self.pending)

    def __len__(self) -> int:
        return len(self.feeds)


def quantize_ort(method: str, source: Path, reader: Reader, sites: list[str], target: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    methods = {
        "ort-minmax": CalibrationMethod.MinMax,
        "ort-percentile": CalibrationMethod.Percentile,
        "ort-entropy": CalibrationMethod.Entropy,
    }
    quantize_static(
        str(source),
        str(target),
        reader,
        op_types_to_quantize=["Conv", "MatMul"],
        nodes_to_quantize=sites,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=methods[method],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["Conv", "MatMul"],
            "CalibStridedMinMax": 1,  # one image in memory at a time, for every method; the result is the same
        },
    )


def quantize_modelopt(method: str, source: Path, reader: Reader, sites: list[str], target: Path) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source),
        calibration_method=method.removeprefix("modelopt-"),
        calibration_data_reader=reader,
        calibration_eps=["cpu"],
        nodes_to_quantize=[re.escape(site) for site in sites],
        op_types_to_quantize=["Conv", "MatMul"],
        high_precision_dtype="fp32",
        output_path=str(target),
        log_level="ERROR",
    )


def quantize_nncf(method: str, source: Path, reader: Reader, sites: list[str], target: Path) -> None:
    import nncf
    import onnx
    from nncf.common.hardware import qspaces
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    model = onnx.load(str(source))
    wanted = set(sites)
    ignored = [node.name for node in model.graph.node if node.name not in wanted]
    advanced = AdvancedQuantizationParameters()
    if not method.endswith("-unsigned"):
        # NNCF takes unsigned codes where a tensor is never negative; TensorRT has signed ones only
        for space in (qspaces.q8_a, qspaces.q8_a_sym, qspaces.q8_a_ch):
            object.__setattr__(space, "signedness_to_force", True)
        advanced.activations_quantization_params = QuantizationParameters(signedness_to_force=True)
    result = nncf.quantize(
        model,
        nncf.Dataset(reader.feeds),
        preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric
        subset_size=len(reader.feeds),
        model_type=nncf.ModelType.TRANSFORMER if "smoothquant" in method else None,
        ignored_scope=nncf.IgnoredScope(names=ignored),
        advanced_parameters=advanced,
    )
    onnx.save(result, str(target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("source", type=Path)
    parser.add_argument("tensors", type=Path, help="npz: arrays 0, 1, … are inputs of the part")
    parser.add_argument("sites", type=Path, help="JSON list of node names")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    import onnx

    stored = np.load(arguments.tensors)
    name = onnx.load(str(arguments.source), load_external_data=False).graph.input[0].name
    reader: Any = Reader(name, [stored[key] for key in sorted(stored.files, key=int)])
    tool = arguments.method.split("-")[0]
    run = {"ort": quantize_ort, "modelopt": quantize_modelopt, "nncf": quantize_nncf}[tool]
    run(arguments.method, arguments.source, reader, json.loads(arguments.sites.read_text()), arguments.target)


if __name__ == "__main__":
    main()
