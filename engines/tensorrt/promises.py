"""What NVIDIA promises of a format in TensorRT-RTX, so that whoever builds for it knows.

Its support matrices and the notes of 1.7: FP8 from compute capability 8.9 on; INT8 and FP8 of weights alone, whose
convolutions get smaller engines and less memory; nothing of INT8 convolutions, which it compiles all the same.
"""

from __future__ import annotations

from collections.abc import Collection

from passionsr_trt.engines.bundle.backends import Backend
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, FP8, INT8, capability


def promise(backend: Backend, formats: Collection[str], capabilities: Collection[str]) -> str:
    """One line for engines of these formats, empty where there is nothing to say. capabilities: of the GPUs."""
    if not backend.compiles_on_gpu:
        return ""
    if INT8.name in formats:
        takes_fp8 = all(capability(text) >= FP8.capability for text in capabilities)
        other = "`export --format fp8`" if takes_fp8 else "`--backend tensorrt` on the GPU itself"
        return f"NVIDIA promises no speed of INT8 convolutions in {backend.label}, but of {other}"
    if any(CODE_FORMATS[name].weights_only for name in formats if name in CODE_FORMATS):
        return (
            f"in {backend.label} 8-bit weights make smaller engines, no faster ones: a convolution's become half "
            "precision in a kernel before it, a matrix product takes them as they are"
        )
    return ""
