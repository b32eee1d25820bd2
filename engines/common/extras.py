"""What is not installed everywhere: packages, the extra that brings each, the line that installs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "passionsr-trt"


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
    Package("pi-heif", "pi_heif", "heic", "read HEIC pictures"),
    Package("safetensors", "safetensors", "export"),
    Package("spandrel", "spandrel", "networks", "load image networks"),
    Package("huggingface_hub", "huggingface_hub", "hub", "fetch models from the Hugging Face hub"),
    Package("transformers", "transformers", "prompt", "embed a prompt"),
    Package("av", "av", "video", "clips in, clips out"),
    Package("gradio", "gradio", "serve", "a local page"),
    Package("ray", "ray", "batch", "very many pictures"),
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
    """The command: no index has the package, so it names the checkout, `.` where that is not known."""
    known = checkout()
    folder, editable = (".", True) if known is None else (str(known.folder), known.editable)
    wanted = quoted(f"{folder}[{','.join(dict.fromkeys(extras))}]")
    return f"pip install {'-e ' if editable else ''}{wanted}"


def install_hint(*extras: str) -> str:
    """The same as part of a sentence, with the place to type it where that matters."""
    return f"{'in the checkout: ' if checkout() is None else ''}`{install(*extras)}`"


@dataclass(frozen=True)
class Checkout:
    """folder: what the package was installed from; editable: it runs from there."""

    folder: Path
    editable: bool


@cache
def checkout() -> Checkout | None:
    """As pip noted it (direct_url.json, PEP 610); None where nothing is noted, or the folder is no more."""
    try:
        noted = json.loads(importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
        url = urlsplit(noted.get("url", ""))
        folder = Path(url2pathname(url.path))
        if url.scheme != "file" or not (folder / "setup.cfg").is_file():
            return None
        return Checkout(folder, noted.get("dir_info", {}).get("editable", False) is True)
    except (OSError, ValueError, AttributeError, importlib.metadata.PackageNotFoundError):
        return None


def quoted(word: str) -> str:
    """Double quotes hold in every shell, cmd.exe too, but for what POSIX shells read inside them."""
    return shlex.quote(word) if os.name == "posix" and set(word) & set('$`"\\!') else f'"{word}"'
