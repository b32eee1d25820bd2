"""What engines are built for: one explicit tuple of backends, and the record that each keeps of a build.

All that differs from one backend to another stands in its row or in the two modules that the row names; nothing
else asks for its name. A new one is a row, a module that builds and one that runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE
from passionsr_trt.engines.bundle.wiring import Size, is_size
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import package_of

if TYPE_CHECKING:
    from passionsr_trt.engines.bundle.bundles import Coverage, OnnxBundle
    from passionsr_trt.engines.bundle.wiring import PartInfo

Check = tuple[str, Any, str, bool]  # name, value, what is expected, is it that


@dataclass(frozen=True)
class OpenVINOTarget:
    """bfloat16: float operations of parts whose `float_precision` it is run in it; the building CPU has it.

    graph_revision: of the rewriting. weight_code_limit: the range that weight codes were brought into, None: as
    they are in the bundle. convolutions: INT8 linears are written as 1×1 convolutions; phases: convolutions in
    sub-pixel form as one per phase; blocks: the last convolution computes blocks of pixels; each where the CPU at
    hand is faster with it.
    """

    bfloat16: bool
    graph_revision: int
    weight_code_limit: int | None
    convolutions: bool
    phases: bool
    blocks: bool
    device: str = "CPU"

    def checks(self, _multiple: int) -> list[Check]:
        """Of values of the right type. multiple: of the chain's sides."""
        limit, known = self.weight_code_limit, (None, HALF_RANGE.high, FULL_RANGE.high)
        return [("weight_code_limit", limit, "null, 63 or 127", limit in known)]


@dataclass(frozen=True)
class TensorRTTarget:
    """Sizes (height, width) in output pixels; batch: up to so many at once. compute_capabilities: of a build ahead
    of time, empty for the GPU that was at hand, which `gpu` and `capability` then name. workspace_mib: scratch
    limit, 0: none. optimization_level: 0 to 5, None for the builder's own. version_compatible: the engines carry
    host code.
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

    def checks(self, multiple: int) -> list[Check]:
        """Of values of the right type. multiple: of the chain's sides."""
        sizes = (self.min_size, self.size, self.max_size)
        return [
            ("sizes", sizes, f"multiples of {multiple}", all(is_size(size, multiple) for size in sizes)),
            ("batch", self.batch, "1 to 4096", 1 <= self.batch <= 4096),
        ]


Target = OpenVINOTarget | TensorRTTarget


@dataclass(frozen=True)
class TargetOptions:
    """What `build-engines` was asked for.

    float32: OpenVINO, all that is not INT8 stays in it. All others are TensorRT's. size: (height, width) that the
    engines are tuned for, None: the graphs' own, or 512×512; min_size, max_size: None: `size`. batch: as many at
    once, and any fewer. compute_capabilities: to compile for, none: the GPU at hand. timing_cache: a file that
    TensorRT reads and adds to; the others as TensorRTTarget has them.
    """

    size: Size | None = None
    min_size: Size | None = None
    max_size: Size | None = None
    batch: int = 1
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int = 0
    optimization_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    float32: bool = False


class Builder(Protocol):
    """Builds a bundle's parts for one target; made with a backend, bundles and options, which it checks first."""

    target: Target

    def build(self, bundle: OnnxBundle, part: PartInfo, folder: Path) -> tuple[str, Coverage]:
        """Write one part's engine into `folder`; the file's name, and the coverage read from the engine."""

    def prove(self, bundle: OnnxBundle, folder: Path) -> dict[str, float]:
        """Relative error of each part in `folder` to the bundle, nothing where they cannot be run here.

        UserError where one is wrong.
        """


@dataclass(frozen=True)
class Backend:
    """name: as --backend has it and manifests keep it; label: in reports.

    library: the module of what runs the engines; its package's version decides what they are.
    on_gpu: its engines run on a GPU, list their kernels beside them, and are tuned for sizes.
    compiles_on_gpu: they are built without that GPU, and compile their kernels and capture CUDA graphs on it.
    in_triton: a backend of Triton's loads them. stores_graphs: its engines are ONNX graphs, compiled as they load.
    builder: `module:class` of its Builder. runner: the module whose `open_chain` opens a bundle of its engines.
    """

    name: str
    label: str
    library: str
    target: type[OpenVINOTarget] | type[TensorRTTarget]
    builder: str
    runner: str
    on_gpu: bool = True
    compiles_on_gpu: bool = False
    in_triton: bool = True
    stores_graphs: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def package(self) -> str:
        """The distribution that its library comes in."""
        return package_of(self.library)

    def builder_for(self, bundles: Sequence[OnnxBundle], options: TargetOptions = TargetOptions()) -> Builder:
        """What builds these bundles with these options. UserError or UsageError where it cannot."""
        module, _colon, name = self.builder.partition(":")
        builder: Builder = getattr(importlib.import_module(module), name)(self, bundles, options)
        return builder

    def to_json(self) -> str:
        return self.name

    @classmethod
    def from_json(cls, name: Any, where: str) -> Backend:
        """The backend of this name; UserError where there is none."""
        for backend in BACKENDS:
            if backend.name == name:
                return backend
        raise UserError(f"{where} is {name!r}", f"expected one of {', '.join(map(str, BACKENDS))}")


OPENVINO = Backend(
    "openvino",
    "OpenVINO",
    library="openvino",
    target=OpenVINOTarget,
    builder="passionsr_trt.engines.openvino.backend:OpenVINOBuilder",
    runner="passionsr_trt.runtime.backends.openvino",
    on_gpu=False,
    stores_graphs=True,
)
TENSORRT_RTX = Backend(
    "tensorrt-rtx",
    "TensorRT-RTX",
    library="tensorrt_rtx_bindings",
    target=TensorRTTarget,
    builder="passionsr_trt.engines.tensorrt.backend:TensorRTBuilder",
    runner="passionsr_trt.runtime.backends.tensorrt.chain",
    compiles_on_gpu=True,
    in_triton=False,
)
TENSORRT = Backend(
    "tensorrt",
    "TensorRT",
    library="tensorrt",
    target=TensorRTTarget,
    builder="passionsr_trt.engines.tensorrt.backend:TensorRTBuilder",
    runner="passionsr_trt.runtime.backends.tensorrt.chain",
)
BACKENDS = (OPENVINO, TENSORRT_RTX, TENSORRT)
