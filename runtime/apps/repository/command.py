"""repository: engines → Triton's model repository: a model a part, and one in Python that tiles and blends."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from passionsr_trt.engines.bundle.backends import BACKENDS, OpenVINOTarget, TensorRTTarget
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.records import encode
from passionsr_trt.engines.bundle.wiring import NAME, PartInfo, Size, reference_size
from passionsr_trt.engines.common.arguments import check_multiple
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.runtime.apps.repository.configs import PICTURE_IN, PICTURE_OUT, ModelConfig, part_ports
from passionsr_trt.runtime.apps.repository.served import MODEL, PART, SETTINGS, ServedChain
from passionsr_trt.runtime.core.chain import Limits
from passionsr_trt.runtime.core.planning import Options


@dataclass(frozen=True)
class Served:
    """How a backend's parts stand in a repository. size: of fixed graphs; write: a part's files into a folder."""

    backend: str
    device: str
    file: str
    size: Size | None
    limits: Limits | None
    batch: int
    ragged: bool
    parameters: Callable[[PartInfo], dict[str, str]]
    write: Callable[[PartInfo, Path], None]


@dataclass(frozen=True)
class RepositoryRequest:
    """name: of the model that takes pictures. size: OpenVINO's, in output pixels; parts: what of Triton runs them,
    `python` or `openvino`. instances: of each model. weight_code_limit: None for what this CPU needs.
    """

    engines: Path
    output: Path
    options: Options = field(default_factory=Options)
    name: str = "upscaler"
    size: Size | None = None
    parts: str = "python"
    instances: int = 1
    threads: int = 0
    weight_code_limit: int | None = None


def repository(request: RepositoryRequest) -> int:
    """Write the models, all or none."""
    bundle, output = EngineBundle.load(request.engines), request.output
    if not NAME.fullmatch(request.name):
        raise UsageError(f"--name {request.name}", "expected letters, digits, _, - and .")
    served = served_by(bundle, request)
    models = {part.name: f"{request.name}-{part.name}" for part in bundle.parts}
    names = [*models.values(), request.name]
    for name in names:
        if (output / name).exists():
            raise UserError(f"{output / name}: is there already", "expected a new name", "give another --name")
    check_writable(output)
    output.mkdir(parents=True, exist_ok=True)
    with temporary_folder(output) as folder:
        for part in bundle.parts:
            inputs, outputs = part_ports(part, served.size)
            config = ModelConfig(
                models[part.name], served.backend, served.file, inputs, outputs, served.device,
                request.instances, served.parameters(part),
            )  # fmt: skip
            version = write_config(folder, config)
            served.write(part, version)
        config = ModelConfig(
            request.name, "python", "model.py", [PICTURE_IN], [PICTURE_OUT], "CPU", request.instances
        )
        version = write_config(folder, config)
        (version / "model.py").write_text(MODEL, encoding="utf-8")
        settings = json.dumps(encode(settings_of(bundle, served, models, request.options)), indent=1)
        (version / SETTINGS).write_text(settings + "\n", encoding="utf-8")
        for name in names:  # the one that needs the others last
            (folder / name).replace(output / name)
    print(f"{', '.join(names)} written to {output}; requests go to {request.name}")
    return 0


def write_config(folder: Path, config: ModelConfig) -> Path:
    """A model's folder with its configuration; the folder of its version 1."""
    version = folder / config.name / "1"
    version.mkdir(parents=True)
    (folder / config.name / "config.pbtxt").write_text(config.text(), encoding="utf-8")
    return version


def settings_of(bundle: EngineBundle, served: Served, models: dict[str, str], options: Options) -> ServedChain:
    """What served.open_served reads."""
    return ServedChain(
        model=bundle.model,
        parts=tuple(replace(part, sites=()) for part in bundle.parts),
        label=f"Triton {bundle.label}",
        limits=served.limits,
        batch=served.batch,
        ragged=served.ragged,
        models=models,
        options=options,
    )


def served_by(bundle: EngineBundle, request: RepositoryRequest) -> Served:
    """By the engines' backend. UserError for what Triton cannot load."""
    if not bundle.backend.in_triton:
        loaded = [backend for backend in BACKENDS if backend.in_triton]
        raise UserError(
            f"{bundle.folder}: engines of {bundle.backend.label}, which no backend of Triton loads",
            f"expected engines of {' or '.join(backend.label for backend in loaded)}",
            f"build-engines --backend {' or '.join(map(str, loaded))}",
        )
    if isinstance(bundle.target, OpenVINOTarget):
        return openvino_served(bundle, bundle.target, request)
    for option, value in (
        ("--size", request.size),
        ("--threads", request.threads),
        ("--parts", request.parts),
    ):
        if value and value != "python":
            raise UsageError(
                f"{option} is for OpenVINO's engines", "", "TensorRT's have theirs from build-engines"
            )
    return tensorrt_served(bundle, bundle.target)


def tensorrt_served(bundle: EngineBundle, target: TensorRTTarget) -> Served:
    """Plans as they are: sizes and batch are what they were built for."""

    def write(part: PartInfo, version: Path) -> None:
        shutil.copyfile(bundle.open(part), version / "model.plan")

    limits = (target.min_size, target.max_size)
    return Served(
        "tensorrt", "GPU", "model.plan", bundle.model.size, limits, target.batch, True, lambda _part: {}, write
    )  # fmt: skip


def openvino_served(bundle: EngineBundle, target: OpenVINOTarget, request: RepositoryRequest) -> Served:
    """OpenVINO's own format at one size: with free sides its kernels are wrong or slow (openvino/compile.py).

    Weight codes are brought into what this CPU computes exactly, or what --weight-code-limit says, in the file.
    """
    import openvino as ov
    from passionsr_trt.engines.openvino.compile import code_limit, read_fixed, runs_in_bfloat16
    from passionsr_trt.engines.openvino.half_range import within_limit

    size = bundle.model.size or request.size or reference_size(bundle.parts)
    if request.size and request.size != size:
        raise UsageError(f"--size: the engines take {size[0]}x{size[1]} alone", "expected that or nothing")
    check_multiple(size, reference_size(bundle.parts, 1)[0])
    limit = request.weight_code_limit if bundle.spec is not None else None
    limit = limit or code_limit(bundle.spec, target.weight_code_limit)
    if limit and (target.weight_code_limit or 127) <= limit:
        limit = None  # they are within it already

    def write(part: PartInfo, version: Path) -> None:
        with within_limit(bundle.open(part), limit) as path:
            model = read_fixed(path, part.shapes(size))
            ov.save_model(model, str(version / "model.xml"), compress_to_fp16=False)
        if request.parts == "python":
            (version / "model.py").write_text(PART, encoding="utf-8")

    def parameters(part: PartInfo) -> dict[str, str]:
        found = {"PERFORMANCE_HINT": "LATENCY"}
        found |= {"INFERENCE_NUM_THREADS": str(request.threads)} if request.threads else {}
        found |= {"HINT_BF16": "YES"} if runs_in_bfloat16(part, target) else {}
        return found

    if request.parts == "openvino" and not all(runs_in_bfloat16(part, target) for part in bundle.parts):
        print(
            "OpenVINO's backend computes in bfloat16 on CPUs that have it (AVX512-BF16, AMX) and has no switch "
            "for that: pictures differ from infer's there; with --parts python they do not",
            file=sys.stderr,
        )
    file = "model.xml" if request.parts == "openvino" else "model.py"
    return Served(request.parts, "CPU", file, size, (size, size), 1, False, parameters, write)
