"""TensorRT and TensorRT-RTX on a GPU: device, engines, the executor that keeps both busy."""
