"""Write runtime/lpips_alex.onnx: LPIPS v0.1 (AlexNet), both images in [-1, 1], one distance out.

    python benchmarks/build_lpips.py WEIGHTS.safetensors runtime/lpips_alex.onnx

WEIGHTS holds conv0–4.{weight,bias} (AlexNet) and lin0–4.weight (LPIPS). Weights are stored in half
precision and computed in float32. Per layer: features after ReLU, normalised over channels; squared
difference; lin 1×1; spatial mean; sum (Zhang et al., CVPR 2018).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

# (stride, padding, max-pool before)
LAYERS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32).reshape(1, 3, 1, 1)
SCALE = np.array([0.458, 0.448, 0.450], np.float32).reshape(1, 3, 1, 1)


def build(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    initializers = [
        numpy_helper.from_array(SHIFT, "shift"),
        numpy_helper.from_array(SCALE, "scale"),
        numpy_helper.from_array(np.array(1e-10, np.float32), "epsilon"),
        numpy_helper.from_array(np.array([1], np.int64), "channels"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "everything"),
    ]

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    for name, tensor in weights.items():
        initializers.append(numpy_helper.from_array(tensor.astype(np.float16), f"{name}_half"))
        add("Cast", [f"{name}_half"], name, to=TensorProto.FLOAT)
    features: dict[str, list[str]] = {}
    for image in ("first", "second"):
        x = add("Div", [add("Sub", [image, "shift"], f"{image}_shifted"), "scale"], f"{image}_scaled")
        features[image] = []
        for index, (stride, pad, pool) in enumerate(LAYERS):
            if pool:
                x = add("MaxPool", [x], f"{image}_pool{index}", kernel_shape=[3, 3], strides=[2, 2])
            x = add(
                "Conv",
                [x, f"conv{index}.weight", f"conv{index}.bias"],
                f"{image}_conv{index}",
                strides=[stride] * 2,
                pads=[pad] * 4,
            )
            x = add("Relu", [x], f"{image}_relu{index}")
            norm = add("ReduceL2", [x, "channels"], f"{image}_norm{index}", keepdims=1)
            norm = add("Add", [norm, "epsilon"], f"{image}_safe{index}")
            features[image].append(add("Div", [x, norm], f"{image}_unit{index}"))
    total = ""
    for index, (a, b) in enumerate(zip(features["first"], features["second"], strict=True)):
        difference = add("Sub", [a, b], f"difference{index}")
        square = add("Mul", [difference, difference], f"square{index}")
        weighted = add("Conv", [square, f"lin{index}.weight"], f"weighted{index}")
        mean = add("GlobalAveragePool", [weighted], f"mean{index}")
        total = mean if not total else add("Add", [total, mean], f"total{index}")
    add("ReduceSum", [total, "everything"], "distance", keepdims=0)
    shape: list[str | int | None] = ["batch", 3, "height", "width"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("first", "second")]
    output = helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["batch"])
    graph = helper.make_graph(nodes, "lpips_alex", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    onnx.save(build(load_file(Path(sys.argv[1]))), sys.argv[2])
