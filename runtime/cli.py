"""The runtime's subcommands, from infer to doctor. Heavy imports wait until one is run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.arguments import (
    MOST_THREADS,
    colour,
    decibels,
    gibibytes,
    mebibytes,
    megapixels,
    not_empty,
    parse_size,
    positive,
    some_input,
    some_path,
    whole,
    written,
)
from passionsr_trt.runtime.core.chain import PROVIDERS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from passionsr_trt.engines.bundle.bundles import EngineBundle
    from passionsr_trt.runtime.apps.infer import Recipe


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


def add_infer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        type=some_input,
        help="images, or folders of images, with their sub-folders (links to folders are not followed)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=some_path,
        required=True,
        help="folder, which gets the sub-folders too, or file for one image",
    )
    parser.add_argument("--engines", type=Path, required=True, help="folder made by build-engines")
    add_picture_options(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip images whose output these engines and options made from the same content; the notes lie in "
        "OUTPUT/.passionsr-batch, where batch reads them too. Outputs without a note are made again",
    )
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="CPU threads, 0: all")
    parser.add_argument(
        "--streams",
        type=whole(1, MOST_THREADS),
        default=1,
        metavar="N",
        help="OpenVINO: pictures at once, or tiles of a large one, each by its share of the threads: more "
        "pictures a minute, the first one later, and N times the memory for activations",
    )
    parser.set_defaults(run=_run_infer)


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """What `infer` and `batch` have in common: how pictures are made, and by what."""
    parser.add_argument(
        "--align", choices=ALIGNMENTS, help="colour fix towards the input (default: chosen for the model)"
    )
    parser.add_argument(
        "--tile",
        type=whole(0),
        help="side of square tiles in output pixels, 0: never tile (default: tile above 896×896 pixels, or above "
        "the engines' largest size; the shape that computes least, of at most 640×640 pixels, fewer where memory "
        "is short)",
    )
    parser.add_argument(
        "--memory",
        type=gibibytes,
        help="GiB that may be used, of the GPU for GPU engines (default: all that is free there)",
    )
    parser.add_argument(
        "--overlap",
        type=whole(0),
        help="overlap of tiles in output pixels (default: as far as the model sees, 64 for most); more is slower",
    )
    parser.add_argument(
        "--batch",
        type=whole(1),
        help="tiles at once, fewer where memory is short or some would be left over (default: as many as GPU "
        "engines were built for, else 1; on a CPU more take memory and gain nothing)",
    )
    parser.add_argument(
        "--scale",
        type=whole(1, 8),
        help="times to enlarge, 1 to 8, where the model works on the enlarged picture (default: the model's own)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the noise, for models that draw some")
    _add_running_options(parser)


def _add_running_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("png", "jpg", "webp"), default="png", help="files in a folder")
    parser.add_argument(
        "--background",
        type=colour,
        default="white",
        help="colour behind transparency in a JPEG: a name or #rrggbb",
    )
    parser.add_argument(
        "--provider",
        choices=tuple(PROVIDERS),
        help="run an ONNX bundle under ONNX Runtime instead: --engines names a folder made by export",
    )
    parser.add_argument(
        "--cache-size",
        type=gibibytes,
        default="5",
        metavar="GIB",
        help="OpenVINO: compiled models kept in the user's cache folder or $PASSIONSR_CACHE, least recently used "
        "out; Stable Diffusion 2.1 takes about 1 GiB per size of picture",
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="OpenVINO: keep and take no compiled models; a slower start"
    )
    parser.add_argument(
        "--no-cuda-graph", action="store_true", help="GPU: launch kernels one by one; slower, for finding faults"
    )


def _run_infer(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.infer import InferRequest, infer

    return infer(filled(InferRequest, arguments, recipe=recipe_of(arguments)))


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Of `add_picture_options`' options."""
    from passionsr_trt.runtime.apps.infer import Recipe
    from passionsr_trt.runtime.core.planning import Options

    return filled(
        Recipe,
        arguments,
        options=filled(Options, arguments),
        form=arguments.format,
        cache=cache_of(arguments),
        cuda_graph=not arguments.no_cuda_graph,
    )


def cache_of(arguments: argparse.Namespace) -> int:
    """Bytes of compiled models that are kept."""
    return 0 if arguments.no_cache else arguments.cache_size


def typed(arguments: argparse.Namespace) -> str:
    """The command line, ready to be typed again."""
    return f"passionsr-trt {shlex.join(arguments.words)}"


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        type=some_input,
        help="low-resolution images, or folders of them, with their sub-folders",
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
    parser.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.compare import CompareRequest, compare

    return compare(filled(CompareRequest, arguments, command=typed(arguments)))


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engines", type=Path, required=True, help="INT8 engines under test")
    parser.add_argument("--baseline", type=Path, required=True, help="float engines of the same model")
    parser.add_argument("--onnx", type=Path, help="float ONNX bundle, run under ONNX Runtime as well")
    parser.add_argument("--provider", choices=tuple(PROVIDERS), default="cpu", help="ONNX Runtime's, for --onnx")
    parser.add_argument("-o", "--output", type=some_path, required=True, help="folder for figures and chart")
    parser.add_argument("--size", type=parse_size, default="512x512", metavar="HxW", help="output size")
    parser.add_argument(
        "--runs", type=whole(5), default=5, help="rounds, at least 5; in each, every contestant runs once"
    )
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="of every contestant, 0: all")
    parser.add_argument("--profile", action="store_true", help="add where the INT8 time goes, by kernel; slower")
    parser.add_argument("--html", type=some_path, metavar="FILE", help="write the figures into one page as well")
    parser.set_defaults(run=_run_benchmark)


def _run_benchmark(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.benchmark import BenchmarkRequest, benchmark

    return benchmark(filled(BenchmarkRequest, arguments, command=typed(arguments)))


def add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engines",
        nargs="+",
        type=Path,
        required=True,
        help="folders made by build-engines, or by export for ONNX Runtime; the second stands beside the first",
    )
    parser.add_argument("--port", type=whole(1, 65_535), default=7860, help="where the page is")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; any but this machine's own is said"
    )
    parser.add_argument("--share", action="store_true", help="open a public address through Gradio's servers")
    parser.add_argument(
        "--max-upload", type=mebibytes, default="64", metavar="MIB", help="size of an uploaded file, at most"
    )
    parser.add_argument(
        "--max-pixels",
        type=megapixels,
        default="16",
        metavar="MP",
        help="megapixels of an uploaded picture, at most",
    )
    parser.add_argument("--background", type=colour, default="white", help="as of infer")
    parser.add_argument("--threads", type=whole(0, MOST_THREADS), default=0, help="CPU threads, 0: all")
    parser.add_argument(
        "--provider", choices=tuple(PROVIDERS), default="cpu", help="ONNX Runtime's, for folders made by export"
    )
    parser.add_argument(
        "--cache-size",
        type=gibibytes,
        default="5",
        metavar="GIB",
        help="as of infer: compiled models that are kept",
    )
    parser.add_argument("--no-cache", action="store_true", help="as of infer: keep and take no compiled models")
    parser.set_defaults(run=_run_serve)


def _run_serve(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.serving.app import ServeRequest, serve

    return serve(filled(ServeRequest, arguments, cache=cache_of(arguments)))


def add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        type=not_empty,
        metavar="IN",
        help="pictures and folders, sub-folders too: paths or URLs of fsspec's",
    )
    parser.add_argument(
        "output", type=written, metavar="OUT", help="folder for the outputs: a path or a URL of fsspec's"
    )
    parser.add_argument(
        "--list", action="append", type=Path, default=[], metavar="FILE", help="a list of pictures, one per line"
    )
    parser.add_argument(
        "--engines", type=Path, required=True, help="folder made by build-engines; at that path on every machine"
    )
    add_picture_options(parser)
    _add_pool_options(parser)
    parser.set_defaults(run=_run_batch)


def _add_pool_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=whole(1, MOST_THREADS),
        help="processes, each with its own engines in memory (default: one per GPU, else one per 4 cores)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, MOST_THREADS),
        help="CPU threads per worker (default: this machine's cores shared out, 4 on another's cluster)",
    )
    parser.add_argument(
        "--gpus",
        type=positive,
        help="GPUs per worker, 0.5: two share one (default: 1 for engines that need one, else none)",
    )
    parser.add_argument(
        "--group",
        type=whole(1, 1024),
        default=8,
        metavar="N",
        help="pictures that a worker is handed at once, all done again where it dies; more is less to write",
    )
    parser.add_argument(
        "--tries",
        type=whole(1, 100),
        default=3,
        help="workers that may die at a picture before it counts as failed",
    )
    parser.add_argument(
        "--address",
        help="Ray cluster: HOST:PORT, ray://HOST:PORT or auto (default: start one on this machine alone)",
    )


def _run_batch(arguments: argparse.Namespace) -> int:
    from passionsr_trt.runtime.apps.batch.job import BatchRequest, batch

    return batch(filled(BatchRequest, arguments, recipe=recipe_of(arguments), lists=arguments.list))


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
