"""Bundles, their manifests, and the builders that turn ONNX bundles into engine bundles."""
