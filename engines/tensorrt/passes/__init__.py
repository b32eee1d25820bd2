"""What a graph is rewritten to for TensorRT-RTX. There is one rewriting; TensorRT needs none."""
