"""build-engines and predict: what they are asked for, and what is done then."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.build import build_engines, engine_key, why_build
from passionsr_trt.engines.bundle.backends import BACKENDS, Backend, Builder, TargetOptions
from passionsr_trt.engines.bundle.bundles import Choice, EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.formats import CODE_FORMATS
from passionsr_trt.engines.bundle.manifest import MANIFEST, check_digest, check_target
from passionsr_trt.engines.common.arguments import parse_size, share, some_path, whole
from passionsr_trt.engines.common.errors import NotHereError, UsageError, UserError
from passionsr_trt.engines.common.next_step import PHOTOS, say_next
from passionsr_trt.engines.common.user_cache import one_at_a_time
from passionsr_trt.engines.common.writing import write_atomic
from passionsr_trt.engines.mixed_format import Rate, build_fastest, check_together, explain_choice, key_of_all
from passionsr_trt.engines.tensorrt.promises import promise

SecondsByPart = Callable[[Sequence[EngineBundle]], dict[str, dict[str, float]]]


@dataclass(frozen=True)
class BuildRequest:
    """build-engines.

    bundles: of several every part takes the fastest format, by `measure` (built engines → part → label → seconds)
    where there is a GPU, else by what is predicted for the GPU named `gpu`. expect_digest: of the bundle, None:
    any. require_int8: the least share of quantized sites that run INT8 or FP8. dry_run: say what would be built.
    force: build where equal engines are there.
    """

    bundles: tuple[Path, ...]
    output: Path
    backend: Backend
    options: TargetOptions
    measure: SecondsByPart
    gpu: str | None = None
    expect_digest: str | None = None
    require_int8: float | None = None
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True)
class PredictRequest:
    """predict. engines: folders, slowest first. gpus: names, none: every one that is known. output: a JSON file
    that gets the figures too.
    """

    engines: tuple[Path, ...]
    gpus: tuple[str, ...] = ()
    output: Path | None = None


def add_build_engines(parser: argparse.ArgumentParser, measure: SecondsByPart) -> None:
    """measure: what runs built engines, part → label → seconds."""
    parser.add_argument(
        "bundle",
        type=Path,
        nargs="+",
        help="folder made by `passionsr-trt export`; TensorRT: several of one model (INT8, FP8, float), of which "
        "every part takes the fastest; each is built",
    )
    parser.add_argument("-o", "--output", type=some_path, required=True, help="folder for the engines")
    parser.add_argument(
        "--backend",
        choices=[backend.name for backend in BACKENDS],
        default=BACKENDS[0].name,
        help="what runs them",
    )
    _add_shapes(parser)
    _add_builder_options(parser)
    parser.add_argument(
        "--float32",
        action="store_true",
        help="openvino: run in float32 everything that is not INT8, slower (default: where the CPU has bfloat16, "
        "the UNet's float operations and the VAE's attention run in it)",
    )
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="several bundles: choose by the prediction for this GPU (default: measure on the GPU at hand, "
        "or predict for one of --compute-capability)",
    )
    parser.add_argument("--expect-digest", metavar="SHA256", help="refuse any other ONNX bundle than this one")
    parser.add_argument("--dry-run", action="store_true", help="print what would be built, and why; build nothing")
    parser.add_argument(
        "--require-int8",
        type=share,
        metavar="SHARE",
        help="fail when a smaller share of the quantized sites runs INT8 (or FP8, or has its weight in 8 bits) "
        "(0 to 1)",
    )
    parser.add_argument("--force", action="store_true", help="build even where equal engines are there")
    parser.set_defaults(run=lambda arguments: run_build_engines(build_request(arguments, measure)))


def _add_shapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compute-capability",
        action="append",
        default=[],
        metavar="X.Y",
        help="tensorrt-rtx: GPU generation to compile for, repeatable; needed where there is no GPU",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="TensorRT: image size to tune for (default: the graph's, or 512x512)",
    )
    parser.add_argument(
        "--min-size", type=parse_size, metavar="HxW", help="TensorRT: smallest image (default: --size)"
    )
    parser.add_argument(
        "--max-size", type=parse_size, metavar="HxW", help="TensorRT: largest image (default: --size)"
    )
    parser.add_argument(
        "--batch",
        type=whole(1),
        default=1,
        metavar="N",
        help="TensorRT: up to N tiles at once, tuned for N; more memory, and a single image may be slower",
    )


def _add_builder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace", type=whole(0), default=0, metavar="MIB", help="TensorRT: scratch limit, 0: none"
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        help="TensorRT: 0 builds fast, 5 searches longest (default: the builder's own)",
    )
    parser.add_argument(
        "--timing-cache",
        type=some_path,
        metavar="FILE",
        help="TensorRT: kernel timings kept between builds (not RTX)",
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="TensorRT: also for newer minor versions; slower, and the engine carries host code",
    )
    parser.add_argument(
        "--hardware-compatible",
        action="store_true",
        help="TensorRT: for every GPU from Ampere on; slower than an engine for one GPU",
    )


def build_request(arguments: argparse.Namespace, measure: SecondsByPart) -> BuildRequest:
    """From the command line's words."""
    options = TargetOptions(
        size=arguments.size,
        min_size=arguments.min_size,
        max_size=arguments.max_size,
        batch=arguments.batch,
        compute_capabilities=tuple(arguments.compute_capability),
        workspace_mib=arguments.workspace,
        optimization_level=arguments.optimization_level,
        timing_cache=arguments.timing_cache,
        version_compatible=arguments.version_compatible,
        hardware_compatible=arguments.hardware_compatible,
        float32=arguments.float32,
    )
    return BuildRequest(
        bundles=tuple(arguments.bundle),
        output=arguments.output,
        backend=Backend.from_json(arguments.backend, "--backend"),
        options=options,
        measure=measure,
        gpu=arguments.gpu,
        expect_digest=arguments.expect_digest,
        require_int8=arguments.require_int8,
        dry_run=arguments.dry_run,
        force=arguments.force,
    )


def run_build_engines(request: BuildRequest) -> int:
    """Build, or find that equal engines are there; print the choice of formats, the proof and the coverage."""
    check_several(request)
    check_digest(request.bundles[0], request.expect_digest)
    bundles = [OnnxBundle.load(folder) for folder in request.bundles]
    if len(bundles) > 1:
        check_together(bundles)
    check_target(request.output, "engine-bundle")
    rate, rated_for = rating(request)
    try:
        builder = request.backend.builder_for(bundles, request.options)
    except NotHereError as lacking:
        if not request.dry_run:
            raise
        print(f"{request.output}: to build for {request.backend}, on another machine than this one: {lacking}")
        print_parts(bundles)
        return 0
    key = engine_key(bundles[0], request.backend, builder.target)
    if rate is not None:
        key = key_of_all(bundles, request.backend, builder.target, rated_for)
    if request.dry_run:
        print_dry_run(bundles, request.output, key)
        return 0
    engines = built_or_reused(request, bundles, builder, rate, key)
    if engines.choice is not None:
        explain_choice(engines.parts, engines.choice)
    for name, error in engines.proof.items():
        print(f"{name:<12} relative error to ONNX Runtime {error:.1e}")
    report_coverage(engines, request.require_int8)
    formats = {part.format for part in engines.parts}
    if said := promise(request.backend, formats, request.options.compute_capabilities):
        print(f"note: {said}")
    if request.backend.compiles_on_gpu and request.options.compute_capabilities:  # for GPUs that may be elsewhere
        say_next("predict", request.output)
    else:
        say_next("infer", PHOTOS, "-o", Path("out", "pictures"), "--engines", request.output)
    return 0


def check_several(request: BuildRequest) -> None:
    """UsageError for what several bundles do not go with."""
    if len(request.bundles) == 1:
        if request.gpu is not None:
            raise UsageError(f"--gpu {request.gpu}", "expected several bundles to choose from")
    elif not request.backend.on_gpu:
        raise UsageError(
            f"several bundles with --backend {request.backend}", "expected one", "TensorRT chooses per part"
        )
    elif request.expect_digest is not None:
        raise UsageError("--expect-digest with several bundles", "expected one")


def rating(request: BuildRequest) -> tuple[Rate | None, str]:
    """How several bundles' engines are rated, and for which GPU; None for one bundle, which is all there is."""
    if len(request.bundles) == 1:
        return None, ""
    from passionsr_trt.engines.tensorrt.gpu import target_name
    from passionsr_trt.engines.tensorrt.roofline import gpu_for, rate

    capabilities = request.options.compute_capabilities
    if request.gpu is None and not capabilities:
        name = target_name()["gpu"]
        return lambda built: Choice("measured", name, request.measure(built)), name
    gpu = gpu_for(capabilities, request.gpu)
    return lambda built: rate(built, gpu), f"{gpu.name}, predicted"


def built_or_reused(
    request: BuildRequest,
    bundles: Sequence[OnnxBundle],
    builder: Builder,
    rate: Rate | None,
    key: Mapping[str, str],
) -> EngineBundle:
    """The engines in the output folder: those that are there if they are of this key, else new ones."""
    output, backend = request.output, request.backend
    with one_at_a_time(output, "building"):
        reason = why_build(output, key)
        if reason is None and not request.force:
            print(f"{output}: engines of this bundle, backend and version are there already; reused")
            return EngineBundle.load(output)
        if (output / MANIFEST).is_file():
            print(f"{output}: rebuilding: {reason or '--force'}")
        if rate is None:
            return build_engines(bundles[0], output, backend, builder)
        return build_fastest(bundles, output, backend, builder, rate, key)


def print_dry_run(bundles: Sequence[OnnxBundle], output: Path, key: Mapping[str, str]) -> None:
    """What would be built, and why."""
    reason = why_build(output, key)
    print(f"{output}: {'up to date' if reason is None else f'to build: {reason}'}")
    print_parts(bundles)
    for name, value in key.items():
        print(f"  {name}: {value}")


def print_parts(bundles: Sequence[OnnxBundle]) -> None:
    """Of a dry run: a line per part."""
    for bundle in bundles:
        for part in bundle.parts:
            quantized = sum(site.quantized for site in part.sites)
            size = bundle.open(part).stat().st_size / 1e6
            shapes = f"{', '.join(map(str, part.inputs))} → {part.output}"
            sites = f"{quantized} {part.format.upper() if quantized else 'quantized'} sites"
            print(f"  {part.name:<12} {shapes}, {sites}, {size:.1f} MB ONNX")


def report_coverage(engines: EngineBundle, required: float | None) -> None:
    """Print a line per part; UserError where the share of quantized sites that run INT8 is too low."""
    for name, coverage in engines.coverage.items():
        print(coverage.line(name))
        for site in coverage.float_sites:
            print(f"  runs in float: {site}")
        share = coverage.sites_running / coverage.sites_quantized if coverage.sites_quantized else 0.0
        left_float = engines.choice is not None and not coverage.sites_quantized
        if required is not None and share < required and not left_float:
            label = "INT8" if engines.part(name).format not in CODE_FORMATS else engines.part(name).format.upper()
            raise UserError(
                f"{name}: {share:.1%} of the spec's sites run {label}", f"expected at least {required:.1%}"
            )


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "engines",
        nargs="+",
        type=Path,
        help="folders of TensorRT or -RTX engines, slowest first: the ratio is the first's time over the last's",
    )
    parser.add_argument(
        "--gpu", action="append", metavar="NAME", help="only this one of the known GPUs, repeatable"
    )
    parser.add_argument(
        "-o", "--output", type=some_path, metavar="FILE", help="JSON: seconds by GPU, engines and part"
    )
    parser.set_defaults(run=lambda arguments: run_predict(predict_request(arguments)))


def predict_request(arguments: argparse.Namespace) -> PredictRequest:
    """From the command line's words."""
    return PredictRequest(tuple(arguments.engines), tuple(arguments.gpu or ()), arguments.output)


def run_predict(request: PredictRequest) -> int:
    """Print the table of predicted times."""
    from passionsr_trt.engines.tensorrt.roofline import known_gpus, predict, print_table

    gpus = {gpu.name: gpu for gpu in known_gpus()}
    for name in request.gpus:
        if name not in gpus:
            raise UsageError(f"--gpu {name!r}: not known", f"expected one of {', '.join(gpus)}")
    bundles = [EngineBundle.load(folder) for folder in request.engines]
    if len({bundle.label for bundle in bundles}) < len(bundles):
        raise UsageError("two folders hold engines of one precision", "expected one of each")
    table = predict(bundles, [gpus[name] for name in request.gpus or gpus])
    if not any(table.values()):
        raise UserError("none of these GPUs multiplies in these engines' format", "expected one that does")
    print_table(table, [bundle.label for bundle in bundles])
    if request.output is not None:
        write_atomic(request.output, f"{json.dumps({'predicted seconds': table}, indent=1)}\n".encode())
    return 0
