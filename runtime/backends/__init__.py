"""What runs a part: OpenVINO, ONNX Runtime, TensorRT."""
