"""The float model and everything that needs PyTorch: fold, calibrate, emit QDQ ONNX."""
