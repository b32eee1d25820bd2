"""What stages hand each other: manifests, the wiring, bundles, the spec, formats. No PyTorch, no ONNX."""
