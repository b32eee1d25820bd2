"""The runtime's subcommands but those that make pictures (picture_cli.py). Heavy imports wait until one is run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.arguments import (
    MOST_THREADS,
    decibels,
    parse_size,
    some_input,
    some_path,
    whole,
)
from passionsr_trt.engines.common.next_step import typed
from passionsr_trt.runtime.apps.video.names import clips_of, no_clip
from passionsr_trt.runtime.clip_cli import add_moments
from passionsr_trt.runtime.core.chain import PROVIDERS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from passionsr_trt.engines.bundle.bundles import EngineBundle


R = TypeVar("R", bound="DataclassInstance")


def filled(kind: type[R], arguments: argparse.Namespace, **given: object) -> R:
    """A request whose fields are the options of the same names, but for those that are `given`."""
    names = (entry.name for entry in fields(kind) if entry.name not in given)
    return kind(**given, **{name: getattr(arguments, name) for name in names})


def add_build_engines(parser: argparse.ArgumentParser) -> None:
    """The engines' own options, and the way to run what was built."""
    from passionsr_trt.engines import cli

    cli.add_build_engines(parser, _seconds_by_part)


def _seconds_by_part(built: Sequence[EngineBundle]) -> dict[str, dict[str, float]]:
    from passionsr_trt.runtime.apps.benchmark import seconds_by_part

    return seconds_by_part(built)


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        type=some_input,
        help="low-resolution images, or folders of them, with their sub-folders; or clips",
    )
    parser.add_argument("--reference", type=Path, required=True, help="float ONNX bundle (export --float)")
    parser.add_argument(
        "--engines",
        type=Path,
        required=True,
        help="engines under test; or an ONNX bundle (FP8 on a CPU), under ONNX Runtime, which is slow",
    )
    parser.add_argument("-o", "--output", type=some_path, required=True, help="folder for the report and pictures")
    parser.add_argument(
        "--ground-truth",
        type=Path,
        help="folder of originals with the same names (or stems); in the same sub-folder, where several have one",
    )
    parser.add_argument("--align", choices=ALIGNMENTS, default="none", help="colour fix")
    parser.add_argument(
        "--provider",
        choices=tuple(PROVIDERS),
        default="cpu",
        help="ONNX Runtime's, for the reference and an ONNX bundle under test",
    )
    parser.add_argument(
        "--parts-on",
        type=whole(0),
        default=2,
        metavar="N",
        help="compare per part on N images, and count what is clipped there",
    )
    parser.add_argument(
        "--drawn",
        action="store_true",
        help="compare pictures unlike photos too, which are drawn for it: text, art, screens, stars, noise",
    )
    parser.add_argument("--min-psnr", type=decibels, help="dB: fail when the mean to the float model is lower")
    parser.add_argument(
        "--html",
        type=some_path,
        metavar="FILE",
        help="write all of it, sliders and differences too, into one page",
    )
    parser.add_argument(
        "--sensitivity", type=Path, metavar="FILE", help="--html: what each site costs (sensitivity.json)"
    )
    group = parser.add_argument_group("clips")
    add_moments(group)
    group.add_argument("--frames", type=whole(1), default=100, metavar="N", help="compare N of each clip at most")
    parser.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.compare import CompareRequest, compare

    request = filled(CompareRequest, arguments, command=typed(*arguments.words))
    if not clips_of(arguments.images):
        if given := [name for name in ("start", "end") if getattr(arguments, name) is not None]:
            raise no_clip(*given)
        return compare(request)
    from passionsr_trt.runtime.apps.video.comparing import FramesWanted, compare_clips

    return compare_clips(request, filled(FramesWanted, arguments))


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engines", type=Path, required=True, help="INT8 engines under test")
    parser.add_argument("--baseline", type=Path, required=True, help="float engines of the same model")
    parser.add_argument("--onnx", type=Path, help="float ONNX bundle, run under ONNX Runtime as well")
    parser.add_argument("--provider", choices=tuple(PROVIDERS), default="cpu", help="ONNX Runtime's, for --onnx")
    parser.add_argument("-o", "--output", type=some_path, required=True, help="folder for figures and chart")
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="output size (default: 512x512, or the nearest one that the model takes)",
    )
    parser.add_argument(
        "--runs", type=whole(5), default=5, help="rounds, at least 5; in each, every contestant runs once"
    )
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="of every contestant, 0: all")
    parser.add_argument("--profile", action="store_true", help="add where the INT8 time goes, by kernel; slower")
    parser.add_argument("--html", type=some_path, metavar="FILE", help="write the figures into one page as well")
    parser.set_defaults(run=_run_benchmark)


def _run_benchmark(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.benchmark import BenchmarkRequest, benchmark

    return benchmark(filled(BenchmarkRequest, arguments, command=typed(*arguments.words)))


def add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engines", type=Path, help="folder made by build-engines, of TensorRT or OpenVINO")
    parser.add_argument("-o", "--output", type=some_path, required=True, help="Triton's model repository")
    parser.add_argument(
        "--name", default="upscaler", help="of the model that takes pictures; each part is NAME-PART beside it"
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="OpenVINO: the one size of the parts, in output pixels: larger pictures are tiled, smaller ones "
        "filled up (default: the engines' own, or 512x512)",
    )
    parser.add_argument(
        "--parts",
        choices=("python", "openvino"),
        default="python",
        help="OpenVINO: which backend of Triton runs the parts: Python with our settings, or OpenVINO's own, "
        "which computes in bfloat16 where the CPU has it",
    )
    parser.add_argument("--align", choices=ALIGNMENTS, help="colour fix (default: chosen for the model)")
    parser.add_argument(
        "--overlap", type=whole(0), help="overlap of tiles in output pixels (default: as in infer)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the noise, for models that draw some")
    parser.add_argument(
        "--instances", type=whole(1, 64), default=1, help="of each model; each takes memory of its own"
    )
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="OpenVINO: CPU threads, 0: all")
    parser.add_argument(
        "--weight-code-limit",
        type=int,
        choices=(63, 127),
        help="OpenVINO, INT8: 63 for servers without VNNI, less close to float (default: what this CPU needs)",
    )
    parser.set_defaults(run=_run_repository)


def _run_repository(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.repository.command import RepositoryRequest, repository
    from passionsr_trt.runtime.core.planning import Options

    options = Options(align=arguments.align, overlap=arguments.overlap, seed=arguments.seed)
    return repository(filled(RepositoryRequest, arguments, options=options))


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu-report",
        type=some_path,
        metavar="FILE",
        help="try everything on this machine's GPU, each failure a result, and write one file to send",
    )
    parser.add_argument("--engines", type=Path, help="--gpu-report: INT8 engines for this GPU")
    parser.add_argument("--baseline", type=Path, help="--gpu-report: float engines to compare with")
    parser.add_argument("--reference", type=Path, help="--gpu-report: the ONNX bundle that --engines come from")
    parser.set_defaults(run=_run_doctor)


def _run_doctor(arguments: argparse.Namespace) -> int:
    if arguments.gpu_report is not None:
        from passionsr_trt.runtime.apps.gpu_report import GpuReportRequest, gpu_report

        return gpu_report(filled(GpuReportRequest, arguments))
    from passionsr_trt.runtime.apps.doctor import run_doctor

    return run_doctor()
