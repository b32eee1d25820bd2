"""quantize: model + images → engines for one device, compared and timed, in one command."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from passionsr_trt.engines.bundle.backends import BACKENDS, Backend
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, check_capabilities
from passionsr_trt.engines.bundle.spec import METHODS
from passionsr_trt.engines.common.arguments import some_input, some_path, whole
from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.target_device import CPU, TargetDevice, target_device
from passionsr_trt.export.cli import CACHE_HELP, METHOD_HELP, add_device, add_name


def add_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="model folder, or an image network's own file")
    parser.add_argument(
        "--images", type=some_input, required=True, help="folder of low-resolution images, with its sub-folders"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=some_path,
        required=True,
        help="folder for everything; the same command again does what is missing or changed",
    )
    parser.add_argument(
        "--for",
        dest="target",
        default=CPU,
        metavar="DEVICE",
        help="what the engines are for: cpu, a GPU's name (RTX 4090, orin) or a compute capability (8.9); it "
        "decides backend, precision and format (docs/gpu.md#which-format-for-which-card)",
    )
    parser.add_argument(
        "--backend", choices=[backend.name for backend in BACKENDS], help="another one than --for's"
    )
    parser.add_argument("--format", choices=tuple(CODE_FORMATS), help="of codes, another one than --for's")
    _add_calibration(parser)
    add_name(parser)
    parser.add_argument(
        "--test", type=some_input, help="folder of pictures to compare on (default: crops of --images)"
    )
    parser.add_argument("--ground-truth", type=Path, help="originals of --test's pictures, as of compare")
    parser.add_argument("--drawn", action="store_true", help="compare pictures unlike photos too, as of compare")
    parser.set_defaults(run=run_quantize)


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=METHODS, help=METHOD_HELP)
    parser.add_argument("--spec", type=Path, help="as of calibrate: JSON of what is quantized and how")
    parser.add_argument("--limit", type=whole(1), default=32, help="calibrate on the first N images")
    parser.add_argument("--cache", type=some_path, help=f"{CACHE_HELP} (default: in OUTPUT)")
    parser.add_argument("--low-memory", action="store_true", help="as of calibrate")
    add_device(parser)


def run_quantize(arguments: argparse.Namespace) -> int:
    from passionsr_trt.export.quantize_plan import QuantizeRequest
    from passionsr_trt.export.quantize_run import quantize

    if arguments.ground_truth is not None and arguments.test is None:
        raise UsageError(f"--ground-truth {arguments.ground_truth}", "expected --test as well")
    request = QuantizeRequest(
        model=arguments.model,
        images=arguments.images,
        output=arguments.output,
        device=device_of(arguments.target, arguments.backend, arguments.format),
        method=arguments.method,
        spec=arguments.spec,
        limit=arguments.limit,
        cache=arguments.cache,
        low_memory=arguments.low_memory,
        compute_on=arguments.device,
        test=arguments.test,
        ground_truth=arguments.ground_truth,
        drawn=arguments.drawn,
        name=arguments.name,
    )
    return quantize(request)


def device_of(target: str, backend: str | None, codes: str | None) -> TargetDevice:
    """--for's device, with --backend and --format where they are given. UsageError where they do not fit."""
    device = target_device(target)
    if backend is not None:
        device = replace(device, backend=Backend.from_json(backend, "--backend"))
    if codes is not None:
        device = replace(device, format=CODE_FORMATS[codes])
    if device.backend.on_gpu != bool(device.capability):
        raise UsageError(f"--backend {device.backend} for {device.label}", "expected one that runs there")
    if not device.backend.on_gpu and codes not in (None, "int8"):
        raise UsageError(f"--format {codes} for {device.label}", "expected int8: no CPU computes in it")
    check_capabilities(device.format.name, [device.capability])
    return device
