"""One part quantized by another tool in its own defaults, for speed: float ONNX → INT8 file. Run by full_scale.py.

    PEERS_PYTHON benchmarks/peer_defaults.py nncf|modelopt FLOAT.onnx TENSORS.npz TARGET_WITHOUT_SUFFIX

nncf: OpenVINO IR (TARGET.xml), its own way, static shape. modelopt: TARGET.onnx, float rest in float32 instead of
float16, which CPUs do not compute in. Nothing else is told to them (peer_worker.py holds them to our rules).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def quantize_nncf(source: Path, tensors: list[np.ndarray], target: Path) -> None:
    import nncf
    import openvino as ov

    model = ov.Core().read_model(source)
    model.reshape(tensors[0].shape)
    quantized = nncf.quantize(model, nncf.Dataset(tensors), subset_size=len(tensors))
    ov.save_model(quantized, target.with_suffix(".xml"), compress_to_fp16=False)


def quantize_modelopt(source: Path, tensors: list[np.ndarray], target: Path) -> None:
    import onnx
    from modelopt.onnx.quantization import quantize

    name = onnx.load(str(source), load_external_data=False).graph.input[0].name
    quantize(
        str(source),
        calibration_data={name: np.concatenate(tensors)},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        use_external_data_format=True,
        output_path=str(target.with_suffix(".onnx")),
        log_level="ERROR",
    )


def main() -> None:
    tool, source, stored, target = sys.argv[1], *map(Path, sys.argv[2:5])
    tensors = list(np.load(stored).values())
    {"nncf": quantize_nncf, "modelopt": quantize_modelopt}[tool](source, tensors, target)


if __name__ == "__main__":
    main()
