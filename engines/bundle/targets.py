"""What engines were built for, a record a backend; it is part of their key and of their manifest."""

from __future__ import annotations

from dataclasses import dataclass

from passionsr_trt.engines.bundle.wiring import Size


@dataclass(frozen=True)
class OpenVINOTarget:
    """bfloat16: what is not INT8 may run in it, where a part's `rest` bears it; the building CPU has it.

    graph_revision: of the rewriting. weight_code_limit: the range that weight codes were brought into, None: as
    they are in the bundle. convolutions: INT8 linears are written as 1×1 convolutions; phases: convolutions in
    sub-pixel form as one a phase; blocks: the last convolution computes blocks of pixels; each where the CPU at
    hand is faster by it.
    """

    bfloat16: bool
    graph_revision: int
    weight_code_limit: int | None
    convolutions: bool
    phases: bool
    blocks: bool
    device: str = "CPU"


@dataclass(frozen=True)
class TensorRTTarget:
    """Sizes (height, width) in output pixels; batch: up to so many at once. compute_capabilities: of a build ahead
    of time, empty for the GPU that was at hand, which `gpu` and `capability` then name.
    """

    size: Size
    min_size: Size
    max_size: Size
    batch: int
    compute_capabilities: tuple[str, ...]
    workspace_mib: int
    optimization_level: int | None
    version_compatible: bool
    hardware_compatible: bool
    gpu: str = ""
    capability: str = ""


Target = OpenVINOTarget | TensorRTTarget
TARGETS: dict[str, type[OpenVINOTarget] | type[TensorRTTarget]] = {
    "openvino": OpenVINOTarget,
    "tensorrt": TensorRTTarget,
    "tensorrt-rtx": TensorRTTarget,
}
