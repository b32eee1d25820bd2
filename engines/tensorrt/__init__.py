"""TensorRT and TensorRT-RTX: building, reading engines back, GPUs, predictions."""
