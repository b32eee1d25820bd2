"""What is not installed everywhere: packages, the extra that brings each, the line that installs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """module: what is imported of it; extra: what brings it; purpose: as `doctor` says it, empty: it does not.
    spare: another package serves the same purpose, so nobody misses this one.
    """

    name: str
    module: str
    extra: str
    purpose: str = ""
    spare: bool = False


PACKAGES = (
    Package("openvino", "openvino", "cpu", "build and run INT8 engines on this CPU"),
    Package("onnx-ir", "onnx_ir", "cpu"),
    Package("onnxruntime", "onnxruntime", "cpu", "reference results, float baseline"),
    Package("polygraphy", "polygraphy", "compare", "per-part comparison"),
    Package("scikit-image", "skimage", "compare", "SSIM"),
    Package("torch", "torch", "export", "calibrate and export"),
    Package("diffusers", "diffusers", "export", "load models"),
    Package(
        "tensorrt-rtx-cu12-bindings",
        "tensorrt_rtx_bindings",
        "rtx",
        "compile engines for RTX cards, GPU not needed",
    ),
    Package("tensorrt", "tensorrt", "tensorrt", "build engines on the GPU at hand"),
    Package("cuda-bindings", "cuda.bindings", "cuda", "run engines on the GPU, CUDA graphs"),
    Package("pycuda", "pycuda", "pycuda", "run engines on the GPU, in place of cuda-bindings", spare=True),
    Package("matplotlib", "matplotlib", "compare"),
    Package("jinja2", "jinja2", "compare"),
    Package("pi-heif", "pi_heif", "heic"),
    Package("safetensors", "safetensors", "export"),
    Package("spandrel", "spandrel", "networks"),
    Package("huggingface_hub", "huggingface_hub", "hub"),
    Package("transformers", "transformers", "prompt"),
    Package("av", "av", "video", "clips in, clips out"),
    Package("gradio", "gradio", "serve"),
    Package("ray", "ray", "batch"),
    Package("ray", "pyarrow", "batch"),
    Package("fsspec", "fsspec", "batch"),
)
EXTRAS = {package.module.split(".")[0]: package.extra for package in PACKAGES}
ORT_GPU = "gpu"  # brings onnxruntime as well, in place of cpu's


def package_of(module: str) -> str:
    """The distribution that a module of PACKAGES comes in."""
    return next(package.name for package in PACKAGES if package.module == module)


def extra_of(module: str) -> str:
    """Of a module in EXTRAS, or one inside it."""
    return EXTRAS[module.split(".")[0]]


def install(*extras: str) -> str:
    """The command, run in the checkout: no index has the package. Double quotes hold in cmd.exe too."""
    return f'pip install -e ".[{",".join(dict.fromkeys(extras))}]"'
