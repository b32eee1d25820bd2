"""What every room shares: errors, manifests, the wiring, bundles, pictures, memory. No PyTorch, no ONNX."""
