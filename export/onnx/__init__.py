"""Parts → ONNX graphs, proved, in a bundle."""
