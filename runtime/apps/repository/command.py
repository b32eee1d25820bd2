"""repository: engines → Triton's model repository: a model a part, and one in Python that tiles and blends."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.bundle.records import encode
from passionsr_trt.engines.bundle.targets import OpenVINOTarget, TensorRTTarget
from passionsr_trt.engines.bundle.wiring import NAME, PartInfo, Size, reference_size
from passionsr_trt.engines.common.arguments import check_multiple
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.runtime.apps.repository.configs import PICTURE_IN, PICTURE_OUT, ModelConfig, part_ports
from passionsr_trt.runtime.apps.repository.served import MODEL, PART, SETTINGS
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


def run_repository(arguments: argparse.Namespace) -> int:
    bundle = EngineBundle.load(arguments.engines)
    if not NAME.fullmatch(arguments.name):
        raise UsageError(f"--name {arguments.name}", "expected letters, digits, _, - and .")
    served = plan(bundle, arguments)
    models = {part.name: f"{arguments.name}-{part.name}" for part in bundle.parts}
    names = [*models.values(), arguments.name]
    for name in names:
        if (arguments.output / name).exists():
            raise UserError(
                f"{arguments.output / name}: is there already", "expected a new name", "give another --name"
            )
    check_writable(arguments.output)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with temporary_folder(arguments.output) as folder:
        for part in bundle.parts:
            inputs, outputs = part_ports(part, served.size)
            config = ModelConfig(
                models[part.name], served.backend, served.file, inputs, outputs, served.device,
                arguments.instances, served.parameters(part),
            )  # fmt: skip
            version = write_config(folder, config)
            served.write(part, version)
        config = ModelConfig(
            arguments.name, "python", "model.py", [PICTURE_IN], [PICTURE_OUT], "CPU", arguments.instances
        )
        version = write_config(folder, config)
        (version / "model.py").write_text(MODEL, encoding="utf-8")
        settings = json.dumps(settings_of(bundle, served, models, arguments), indent=1)
        (version / SETTINGS).write_text(settings + "\n", encoding="utf-8")
        for name in names:  # the one that needs the others last
            (folder / name).replace(arguments.output / name)
    print(f"{', '.join(names)} written to {arguments.output}; requests go to {arguments.name}")
    return 0


def write_config(folder: Path, config: ModelConfig) -> Path:
    """A model's folder with its configuration; the folder of its version 1."""
    version = folder / config.name / "1"
    version.mkdir(parents=True)
    (folder / config.name / "config.pbtxt").write_text(config.text(), encoding="utf-8")
    return version


def settings_of(
    bundle: EngineBundle, served: Served, models: dict[str, str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """What served.open_served reads."""
    options = Options(align=arguments.align, overlap=arguments.overlap, seed=arguments.seed)
    return {
        "model": encode(bundle.model),
        "parts": [encode(replace(part, sites=())) for part in bundle.parts],
        "label": f"Triton {bundle.label}",
        "limits": encode(served.limits),
        "batch": served.batch,
        "ragged": served.ragged,
        "models": models,
        "options": encode(options),
    }


def plan(bundle: EngineBundle, arguments: argparse.Namespace) -> Served:
    """By the engines' backend. UserError for what Triton cannot load."""
    if bundle.backend == "tensorrt-rtx":
        raise UserError(
            f"{bundle.folder}: engines of TensorRT-RTX, which no backend of Triton loads",
            "expected engines of TensorRT or OpenVINO",
            "build-engines --backend tensorrt or openvino",
        )
    if isinstance(bundle.target, OpenVINOTarget):
        return openvino_plan(bundle, bundle.target, arguments)
    for option, value in (
        ("--size", arguments.size),
        ("--threads", arguments.threads),
        ("--parts", arguments.parts),
    ):
        if value and value != "python":
            raise UsageError(
                f"{option} is for OpenVINO's engines", "", "TensorRT's have theirs from build-engines"
            )
    return tensorrt_plan(bundle, bundle.target)


def tensorrt_plan(bundle: EngineBundle, target: TensorRTTarget) -> Served:
    """Plans as they are: sizes and batch are what they were built for."""

    def write(part: PartInfo, version: Path) -> None:
        shutil.copyfile(bundle.open(part), version / "model.plan")

    limits = (target.min_size, target.max_size)
    return Served(
        "tensorrt", "GPU", "model.plan", bundle.model.size, limits, target.batch, True, lambda _part: {}, write
    )  # fmt: skip


def openvino_plan(bundle: EngineBundle, target: OpenVINOTarget, arguments: argparse.Namespace) -> Served:
    """OpenVINO's own format at one size: with free sides its kernels are wrong or slow (openvino/model.py).

    Weight codes are brought into what this CPU computes exactly, or what --weight-code-limit says, in the file.
    """
    import openvino as ov
    from passionsr_trt.engines.openvino.half_range import within_limit
    from passionsr_trt.engines.openvino.model import code_limit, read_fixed, runs_in_bfloat16

    size = bundle.model.size or arguments.size or reference_size(bundle.parts)
    if arguments.size and arguments.size != size:
        raise UsageError(f"--size: the engines take {size[0]}x{size[1]} alone", "expected that or nothing")
    check_multiple(size, reference_size(bundle.parts, 1)[0])
    limit = arguments.weight_code_limit if bundle.spec is not None else None
    if limit is None:
        limit = code_limit(bundle.spec, target.weight_code_limit)
    if limit is not None and (target.weight_code_limit or 127) <= limit:
        limit = None  # they are within it already

    def write(part: PartInfo, version: Path) -> None:
        with within_limit(bundle.open(part), limit) as path:
            model = read_fixed(path, part.shapes(size))
            ov.save_model(model, str(version / "model.xml"), compress_to_fp16=False)
        if arguments.parts == "python":
            (version / "model.py").write_text(PART, encoding="utf-8")

    def parameters(part: PartInfo) -> dict[str, str]:
        found = {"PERFORMANCE_HINT": "LATENCY"}
        if arguments.threads:
            found["INFERENCE_NUM_THREADS"] = str(arguments.threads)
        if runs_in_bfloat16(part, target):
            found["HINT_BF16"] = "YES"
        return found

    if arguments.parts == "openvino" and not all(runs_in_bfloat16(part, target) for part in bundle.parts):
        print(
            "OpenVINO's backend computes in bfloat16 on CPUs that have it (AVX512-BF16, AMX) and has no switch "
            "for that: pictures differ from infer's there; with --parts python they do not",
            file=sys.stderr,
        )
    file = "model.xml" if arguments.parts == "openvino" else "model.py"
    return Served(arguments.parts, "CPU", file, size, (size, size), 1, False, parameters, write)
