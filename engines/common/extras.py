"""What is not installed everywhere: which of setup.cfg's extras brings a module, and the line that installs it."""

from __future__ import annotations

EXTRAS = {
    "openvino": "cpu",
    "onnxruntime": "cpu",
    "onnx_ir": "cpu",
    "polygraphy": "compare",
    "skimage": "compare",
    "matplotlib": "compare",
    "jinja2": "compare",
    "torch": "export",
    "diffusers": "export",
    "safetensors": "export",
    "spandrel": "networks",
    "gradio": "serve",
    "ray": "batch",
    "pyarrow": "batch",
    "fsspec": "batch",
    "pycuda": "cuda",
    "cuda": "cuda",
    "tensorrt": "tensorrt",
    "tensorrt_rtx_bindings": "rtx",
}
ORT_GPU = "gpu"  # brings onnxruntime as well, in place of cpu's


def extra_of(module: str) -> str:
    """Of a module in EXTRAS, or one inside it."""
    return EXTRAS[module.split(".")[0]]


def install(*extras: str) -> str:
    """The command, quoted as every shell wants it."""
    return f"pip install 'passionsr-trt[{','.join(dict.fromkeys(extras))}]'"
