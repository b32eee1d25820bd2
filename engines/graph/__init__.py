"""ONNX graphs: files with their weights, rewriting, and the one exact executor."""
