"""build-engines: ONNX bundle → engines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from passionsr_trt.engines.build import BuildPart, build_engines, why_build
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.formats import CODE_FORMATS
from passionsr_trt.engines.bundle.manifest import MANIFEST, check_digest, check_target
from passionsr_trt.engines.bundle.targets import Target
from passionsr_trt.engines.bundle.wiring import reference_size
from passionsr_trt.engines.common.arguments import parse_size, share, some_path, whole
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.figures import Choice
from passionsr_trt.engines.common.user_cache import one_at_a_time
from passionsr_trt.engines.mixed_format import Rate, build_fastest, check_together, explain_choice, key_of_all


def add_build_engines(parser: argparse.ArgumentParser) -> None:
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
        choices=("openvino", "tensorrt-rtx", "tensorrt"),
        default="openvino",
        help="what runs them",
    )
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
        help="fail when a smaller share of the quantized sites runs INT8 (or FP8) (0 to 1)",
    )
    parser.add_argument("--force", action="store_true", help="build even where equal engines are there")
    parser.set_defaults(run=run_build_engines)


def run_build_engines(arguments: argparse.Namespace) -> int:
    check_several(arguments)
    check_digest(arguments.bundle[0], arguments.expect_digest)
    bundles = [OnnxBundle.load(folder) for folder in arguments.bundle]
    check_together(bundles)
    bundle, rate, rated_for = bundles[0], None, ""
    check_target(arguments.output, "engine-bundle")
    build_part: BuildPart
    prove: Callable[[OnnxBundle, Path], dict[str, float]] | None
    target: Target
    if arguments.backend == "openvino":
        if arguments.compute_capability:
            raise UsageError("--compute-capability is for --backend tensorrt-rtx")
        if arguments.batch > 1:
            raise UsageError("--batch is for TensorRT", "", "OpenVINO's engines take any: `infer --batch`")
        from passionsr_trt.engines.openvino.backend import OpenVINOBuilder

        builder = OpenVINOBuilder(bundle, arguments.float32)
        build_part, target, prove = builder, builder.target, builder.prove
    else:
        from passionsr_trt.engines.tensorrt.backend import TensorRTBuilder, TensorRTPlan

        plan = TensorRTPlan(
            arguments.backend,
            arguments.size or bundle.model.size or reference_size(bundle.parts),
            arguments.min_size,
            arguments.max_size,
            arguments.batch,
            tuple(arguments.compute_capability),
            arguments.workspace,
            arguments.optimization_level,
            arguments.timing_cache,
            arguments.version_compatible,
            arguments.hardware_compatible,
        )
        for each in bundles:
            plan.check(each)
        rate, rated_for = rating(arguments, len(bundles))
        build_part, target, prove = TensorRTBuilder(plan), plan.target(), None
    key = key_of_all(bundles, arguments.backend, target, rated_for)
    if arguments.dry_run:
        print_plan(bundles, arguments.output, key)
        return 0
    with one_at_a_time(arguments.output, "building"):
        reason = why_build(arguments.output, key)
        if reason is None and not arguments.force:
            print(f"{arguments.output}: engines of this bundle, backend and version are there already; reused")
            engines = EngineBundle.load(arguments.output)
        else:
            if (arguments.output / MANIFEST).is_file():
                print(f"{arguments.output}: rebuilding: {reason or '--force'}")
            if rate is None:
                engines = build_engines(bundle, arguments.output, arguments.backend, build_part, target, prove)
            else:
                engines = build_fastest(
                    bundles, arguments.output, arguments.backend, build_part, target, rate, key
                )
    for line in explain_choice(engines):
        print(line)
    for name, error in engines.proof.items():
        print(f"{name:<12} relative error to ONNX Runtime {error:.1e}")
    report_coverage(engines, arguments.require_int8)
    return 0


def check_several(arguments: argparse.Namespace) -> None:
    """UsageError for what several bundles do not go with."""
    if len(arguments.bundle) == 1:
        if arguments.gpu is not None:
            raise UsageError(f"--gpu {arguments.gpu}", "expected several bundles to choose from")
    elif arguments.backend == "openvino":
        raise UsageError("several bundles with --backend openvino", "expected one", "TensorRT chooses by the part")
    elif arguments.expect_digest is not None:
        raise UsageError("--expect-digest with several bundles", "expected one")


def rating(arguments: argparse.Namespace, bundles: int) -> tuple[Rate | None, str]:
    """How several bundles' engines are rated, and for which GPU; None for one bundle, which is all there is."""
    from passionsr_trt.engines.tensorrt.gpu import target_name
    from passionsr_trt.engines.tensorrt.roofline import gpu_for, rate

    if bundles == 1:
        return None, ""
    if arguments.gpu is None and not arguments.compute_capability:
        name = target_name()["gpu"]
        return lambda built: Choice("measured", name, arguments.seconds_by_part(built)), name
    gpu = gpu_for(arguments.compute_capability, arguments.gpu)
    return lambda built: rate(built, gpu), f"{gpu.name}, predicted"


def print_plan(bundles: Sequence[OnnxBundle], output: Path, key: Mapping[str, str]) -> None:
    """--dry-run."""
    reason = why_build(output, key)
    print(f"{output}: {'up to date' if reason is None else f'to build: {reason}'}")
    for bundle in bundles:
        for part in bundle.parts:
            quantized = sum(site.quantized for site in part.sites)
            size = bundle.open(part).stat().st_size / 1e6
            shapes = f"{', '.join(map(str, part.inputs))} → {part.output}"
            sites = f"{quantized} {part.format.upper() if quantized else 'quantized'} sites"
            print(f"  {part.name:<12} {shapes}, {sites}, {size:.1f} MB ONNX")
    for name, value in key.items():
        print(f"  {name}: {value}")


def report_coverage(engines: EngineBundle, required: float | None) -> None:
    """Print a line a part; UserError where the share of quantized sites that run INT8 is too low."""
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
    parser.set_defaults(run=run_predict)


def run_predict(arguments: argparse.Namespace) -> int:
    from passionsr_trt.engines.tensorrt.roofline import known_gpus, predict, print_table

    gpus = {gpu.name: gpu for gpu in known_gpus()}
    for name in arguments.gpu or ():
        if name not in gpus:
            raise UsageError(f"--gpu {name!r}: not known", f"expected one of {', '.join(gpus)}")
    bundles = [EngineBundle.load(folder) for folder in arguments.engines]
    if len({bundle.label for bundle in bundles}) < len(bundles):
        raise UsageError("two folders hold engines of one precision", "expected one of each")
    table = predict(bundles, [gpus[name] for name in arguments.gpu or gpus])
    if not any(table.values()):
        raise UserError("none of these GPUs multiplies in these engines' format", "expected one that does")
    print_table(table, [bundle.label for bundle in bundles])
    return 0
